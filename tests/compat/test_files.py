"""Weights of the family are read out of whatever they were saved in; other files are named as what they are."""

import argparse
import pathlib
import sys
import types
from collections import OrderedDict, defaultdict

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from dmgan_fast import compat
from dmgan_fast.compat.files import flatten, load_checkpoint, models_in
from dmgan_fast.errors import CheckpointError, DMGANError
from dmgan_fast.modules import Discriminator, DiscriminatorConfig, TextEncoder, TextEncoderConfig
from tests.compat.saved import GENERATOR, POINTER, WORDS, AttrDict, Settings, junk, names

OTHER = {name: value + 1 for name, value in GENERATOR.items()}
torch.manual_seed(0)
JUDGE = compat.export_discriminator(
    Discriminator(DiscriminatorConfig(image_size=64, base_channels=2, sentence_channels=8, spectral_norm="official"))
)
SAID = compat.export_text_encoder(
    TextEncoder(TextEncoderConfig(vocabulary_size=4, word_channels=8, embedding_channels=4))
)


def same(one, other):
    assert list(one) == list(other)
    for key in one:
        assert torch.equal(one[key], other[key]), key


def read_back(file, content, **options):
    torch.save(content, file, **options)
    return compat.export_generator(compat.import_generator(load_checkpoint(file)))


def under(prefix, state=GENERATOR):
    return {f"{prefix}{key}": value for key, value in state.items()}


ENVELOPES = {
    "bare": GENERATOR,
    "netG": {"netG": GENERATOR},
    "an epoch beside": {"state_dict": GENERATOR, "epoch": 600},
    "two levels": {"model": {"netG": GENERATOR}, "optimizers": {"G": {"state": {0: {"step": 3}}}}, "epoch": 3},
    "data parallel": under("module."),
    "prefixed and inside": {"state_dict": under("netG.module.")},
    "numbers of numpy": {"netG": GENERATOR, "best": np.float64(3), "count": np.int32(2), "rates": np.arange(3.0)},
    "arguments": {"netG": GENERATOR, "args": argparse.Namespace(lr=1e-4), "path": pathlib.PurePosixPath("/x")},
    "own classes": {
        "netG": GENERATOR,
        "cfg": AttrDict(a=1, b=AttrDict(c=2)),
        "s": Settings(),
        "log": defaultdict(list),
    },
    "a list": [GENERATOR, {"epoch": 3}],
    "other models beside": {"netG": GENERATOR, "netsD": [JUDGE], "text_encoder": SAID},
    "one flat table of several": under("netG.") | under("netD.", JUDGE),
    "optimiser's tensors": {"netG": GENERATOR, "optG": {"state": {0: {"exp_avg": torch.ones(3)}}}},
    "ordered": OrderedDict(model=OrderedDict(GENERATOR)),
    "an average beside": {"netG": OTHER, "netG_ema": GENERATOR},
}


@pytest.mark.parametrize("name", ENVELOPES)
@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "old"])
def test_weights_come_out_of_every_envelope_with_the_same_bits(tmp_path, name, new_format):
    same(read_back(tmp_path / "w.pth", ENVELOPES[name], _use_new_zipfile_serialization=new_format), GENERATOR)


def test_a_module_saved_whole_is_read_without_its_class(tmp_path, monkeypatch):
    def build(tensors):
        """The nested modules that these names come from, of a class that only the training script has."""
        module = sys.modules["their_model"].G_NET()
        parts = {}
        for name, value in tensors.items():
            first, _, rest = name.partition(".")
            if rest:
                parts.setdefault(first, {})[rest] = value
            else:
                module.register_buffer(name, value)
        for name, part in parts.items():
            module.add_module(name, build(part))
        return module

    made = types.ModuleType("their_model")
    made.G_NET = type("G_NET", (nn.Module,), {"__module__": "their_model", "__qualname__": "G_NET"})
    monkeypatch.setitem(sys.modules, "their_model", made)
    torch.save(nn.DataParallel(build(GENERATOR)), tmp_path / "netG.pth")
    monkeypatch.delitem(sys.modules, "their_model")
    state = compat.export_generator(compat.import_generator(load_checkpoint(tmp_path / "netG.pth")))
    for key in GENERATOR:
        assert torch.equal(state[key], GENERATOR[key]), key


def test_safetensors_are_read_too(tmp_path):
    from safetensors.torch import save_file

    save_file(under("generator."), tmp_path / "g.safetensors")
    same(compat.export_generator(compat.import_generator(load_checkpoint(tmp_path / "g.safetensors"))), GENERATOR)


def test_two_of_a_kind_are_refused_by_place(tmp_path):
    torch.save({"first": GENERATOR, "second": OTHER}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="more than one generator, under 'first', 'second'"):
        compat.import_generator(load_checkpoint(tmp_path / "w.pth"))


def test_a_husk_runs_nothing_of_its_class(tmp_path, monkeypatch):
    made = types.ModuleType("their_tools")
    called = []

    class Tool:
        def __init__(self):
            self.a = 1

        def __setstate__(self, state):
            called.append(state)

    Tool.__module__, Tool.__qualname__ = "their_tools", "Tool"
    made.Tool = Tool
    monkeypatch.setitem(sys.modules, "their_tools", made)
    same(read_back(tmp_path / "w.pth", {"netG": GENERATOR, "tool": Tool()}), GENERATOR)
    assert called == []


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    wrappers=st.lists(st.one_of(names, st.integers(0, 2)), max_size=4),
    prefix=st.lists(names, max_size=3).map(lambda parts: "".join(f"{part}." for part in parts)),
    beside=st.dictionaries(names, junk, max_size=4),
    zip_file=st.booleans(),
)
def test_any_envelope_prefix_and_junk_beside_give_the_weights_or_a_plain_error(
    tmp_path, wrappers, prefix, beside, zip_file
):
    content = under(prefix)
    for wrapper in wrappers:
        held = content
        content = [{"n": k} for k in range(wrapper)] + [held] if isinstance(wrapper, int) else beside | {wrapper: held}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zip_file)
    same(compat.export_generator(compat.import_generator(load_checkpoint(tmp_path / "w.pth"))), GENERATOR)


def test_places_are_told_of_all_models_in_a_file():
    found = models_in(flatten({"a": {"netG": GENERATOR}, "netsD": [JUDGE, JUDGE], "enc": under("module.", SAID)}))
    assert sorted((model.kind, model.place) for model in found) == [
        ("discriminator", "netsD.0"),
        ("discriminator", "netsD.1"),
        ("generator", "a.netG"),
        ("text encoder", "enc.module"),
    ]


# ---------------------------------------------------------------------------------------------------- our own folders


@pytest.mark.parametrize("name", ["generator/model.safetensors", "generator/config.json", "vocabulary.json"])
def test_pointers_in_a_cloned_folder_of_weights_are_named(tmp_path, name):
    from dmgan_fast.sampling.bundle import save_bundle
    from dmgan_fast.sampling.sampler import Sampler

    models = {"generator": compat.import_generator(GENERATOR), "text_encoder": compat.import_text_encoder(SAID)}
    save_bundle(tmp_path, vocabulary=WORDS, card="", **models)
    (tmp_path / name).write_text(POINTER)
    with pytest.raises(DMGANError, match=rf"{name}.*a Git LFS pointer.*git lfs pull"):
        Sampler.from_pretrained(tmp_path)
