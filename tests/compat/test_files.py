"""Weights of the family are read out of whatever they were saved in; other files are named as what they are."""

import argparse
import gzip
import pathlib
import pickle
import string
import sys
import tarfile
import types
import zipfile
from collections import OrderedDict, defaultdict

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from dmgan_fast import compat
from dmgan_fast.compat.files import flatten, load_checkpoint, models_in
from dmgan_fast.data import Vocabulary
from dmgan_fast.errors import CheckpointError, DataError, DMGANError
from dmgan_fast.evaluation.given_statistics import GivenStatistics
from dmgan_fast.evaluation.weights import read_tensors
from dmgan_fast.modules import (
    Discriminator,
    DiscriminatorConfig,
    Generator,
    GeneratorConfig,
    TextEncoder,
    TextEncoderConfig,
)

WIDTHS = {"word_channels": 8, "condition_channels": 4, "noise_channels": 4}
torch.manual_seed(0)
GENERATOR = compat.export_generator(Generator(GeneratorConfig(image_sizes=(64,), base_channels=2, **WIDTHS)))
OTHER = {name: value + 1 for name, value in GENERATOR.items()}
JUDGE = compat.export_discriminator(
    Discriminator(DiscriminatorConfig(image_size=64, base_channels=2, sentence_channels=8, spectral_norm="official"))
)
SAID = compat.export_text_encoder(
    TextEncoder(TextEncoderConfig(vocabulary_size=4, word_channels=8, embedding_channels=4))
)
WORDS = Vocabulary(["<end>", "a", "red", "box"])


def same(one, other):
    assert list(one) == list(other)
    for key in one:
        assert torch.equal(one[key], other[key]), key


def read_back(file, content, **options):
    torch.save(content, file, **options)
    return compat.export_generator(compat.import_generator(load_checkpoint(file)))


class Settings:  # of a training script; ours to pickle, not to load
    def __init__(self):
        self.rate = 2e-4


class AttrDict(dict):
    pass


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


def broken_zip(file):
    torch.save(GENERATOR, file)
    file.write_bytes(file.read_bytes()[:-500])


def zipped(file):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("netG.pth", b"x")


def tarred(file):
    (file.parent / "netG.txt").write_text("x")
    with tarfile.open(file, "w") as archive:
        archive.add(file.parent / "netG.txt", "netG.pth")


PAGE = "\n\n<HTML lang=en><head><title>Google Drive -\n Virus scan warning</title></head>"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123456789\n"
FOREIGN = {
    "a page": (lambda f: f.write_text(PAGE), r"a web page \('Google Drive - Virus scan warning'\).*fetch it again"),
    "a page in UTF-8": (lambda f: f.write_bytes(b"\xef\xbb\xbf<!doctype HTML>"), "a web page"),
    "a pointer": (lambda f: f.write_text(POINTER), r"Git LFS pointer.*123,456,789 bytes.*git lfs pull"),
    "nothing": (lambda f: f.write_text(""), "an empty file"),
    "gzip": (lambda f: f.write_bytes(gzip.compress(b"x")), "a gzip archive: unpack it"),
    "tar": (tarred, "a tar archive: unpack it"),
    "zip": (zipped, "a zip archive of 1 files; unpack it"),
    "json": (lambda f: f.write_text('{"error": "not found"}'), "JSON text"),
    "text": (lambda f: f.write_text("Not Found"), "a text file that begins with 'Not Found'"),
    "HDF5": (lambda f: f.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "HDF5"),
    "cut short": (broken_zip, "cut short|damaged"),
    "noise": (lambda f: f.write_bytes(bytes(range(128, 256)) * 9), "damaged, or was not written by PyTorch"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_files_are_named_as_what_they_are(tmp_path, name):
    write, message = FOREIGN[name]
    file = tmp_path / "bird_DMGAN.pth"
    write(file)
    for read in (load_checkpoint, read_tensors):
        with pytest.raises(CheckpointError, match=rf"(?s)bird_DMGAN\.pth.*({message})") as caught:
            read(file)
        assert "weights_only" not in str(caught.value)
        assert "pickle" not in str(caught.value).lower()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a page", "a pointer", "nothing", "gzip"])
def test_statistics_that_are_something_else_are_named_too(tmp_path, name):
    write, message = FOREIGN[name]
    write(tmp_path / "bird_val.npz")
    with pytest.raises(DataError, match=message) as caught:
        GivenStatistics.read(tmp_path / "bird_val.npz")
    assert "allow_pickle" not in str(caught.value)


class Hostile:
    def __init__(self, module, name):
        self.function = getattr(__import__(module), name)

    def __reduce__(self):
        return self.function, ("executed",)


@pytest.mark.parametrize(("module", "name"), [("builtins", "print"), ("os", "system"), ("builtins", "eval")])
def test_files_that_ask_for_what_weights_do_not_need_run_nothing(tmp_path, capfd, module, name):
    for content in ({"netG": GENERATOR, "x": Hostile(module, name)}, [Hostile(module, name)]):
        torch.save(content, tmp_path / "bad.pth")
        with pytest.raises(CheckpointError, match=rf"it asks for \w+\.{name}, which weights do not need"):
            load_checkpoint(tmp_path / "bad.pth")
    assert "executed" not in "".join(capfd.readouterr())


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


# ----------------------------------------------------------------------------------------------------- vocabularies


NUMBERED = dict(enumerate(WORDS.words))
CAPTIONS = {
    "AttnGAN's": [[[1, 2]], [[1]], NUMBERED, {word: k for k, word in NUMBERED.items()}],
    "arrays": [[np.array([1, 2])], [np.array([1])], {np.int64(k): w for k, w in NUMBERED.items()}, {}],
    "by name": {"train": [[1]], "ixtoword": NUMBERED},
    "words to numbers": ([[1]], {word: k for k, word in NUMBERED.items()}),
    "bare": NUMBERED,
}


@pytest.mark.parametrize("name", CAPTIONS)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_vocabularies_are_found_in_every_pickle_of_captions(tmp_path, name, protocol):
    (tmp_path / "captions.pickle").write_bytes(pickle.dumps(CAPTIONS[name], protocol))
    assert compat.read_vocabulary(tmp_path / "captions.pickle") == WORDS


def test_files_without_numbered_words_are_named(tmp_path):
    (tmp_path / "captions.pickle").write_bytes(pickle.dumps([[[1, 2]], [[3]]], 2))
    with pytest.raises(DataError, match=r"captions\.pickle: no numbered words"):
        compat.read_vocabulary(tmp_path / "captions.pickle")
    (tmp_path / "captions.pickle").write_text(PAGE)
    with pytest.raises(DataError, match="a web page"):
        compat.read_vocabulary(tmp_path / "captions.pickle")


# ------------------------------------------------------------------------------------------------------- any envelope


names = st.text(string.ascii_letters + "_0", min_size=1, max_size=8).filter(
    lambda name: name.lower() not in ("ema", "avg", "average", "averaged", "shadow") and "_" not in name
)
plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**40), 2**40),
    st.floats(allow_nan=False),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.sampled_from([np.float64(1.5), np.float32(2), np.int64(3), np.arange(4), np.bool_(True), np.zeros((2, 2))]),
    st.sampled_from([argparse.Namespace(a=1), Settings(), AttrDict(a=AttrDict()), pathlib.PurePosixPath("a/b")]),
    st.sampled_from([torch.ones(2), torch.zeros(2, 3, dtype=torch.int64), slice(1, 2), complex(1, 2)]),
)
junk = st.recursive(
    plain, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3))
)


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


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=junk, data=st.data())
def test_anything_saved_and_damaged_gives_nothing_but_our_errors(tmp_path, content, data):
    file = tmp_path / "w.pth"
    state = dict(GENERATOR)
    for key in data.draw(st.lists(st.sampled_from(sorted(state)), max_size=3)):
        state[key] = data.draw(
            st.sampled_from([torch.zeros(0), torch.zeros(3, 3), torch.tensor(1.0), state[key].flatten()[:1]])
        )
    torch.save({"netG": state, "rest": content}, file)
    raw = bytearray(file.read_bytes())
    for position in data.draw(st.lists(st.integers(0, len(raw) - 1), max_size=2)):
        raw[position] ^= data.draw(st.integers(0, 255))
    file.write_bytes(raw)
    said = ""
    try:
        compat.import_bundle([file], tmp_path / "out" / str(data.draw(st.integers(0, 2**60))))
    except DMGANError as error:
        said = str(error)
    assert "weights_only" not in said
    assert "\n" not in said


def test_names_with_line_feeds_stay_on_one_line_of_a_message(tmp_path):
    state = dict(GENERATOR)
    state["h_net1.fc.1.bi\nas"] = state.pop("h_net1.fc.1.bias")
    for content in (state, {"netG": state}):
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(CheckpointError, match=r"unexpected h_net1\.fc\.1\.bi\\nas") as caught:
            compat.import_bundle([tmp_path / "w.pth"], tmp_path / "out")
        assert "\n" not in str(caught.value)


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
