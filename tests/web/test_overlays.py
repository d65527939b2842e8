"""Layers over the images, and what the memory wrote."""

import numpy as np
import pytest
import torch

from dmgan_fast.modules import Generator
from dmgan_fast.sampling.sampler import Sampler
from dmgan_fast.web.overlays import BLUE, RED, STRONGEST, layer, refinements


@pytest.fixture
def drawing(weights):
    return Sampler.from_pretrained(weights, device="cpu").sample(["a red zebra apple"], maps=True)[0]


def without_gates(weights):
    whole = Sampler.from_pretrained(weights, device="cpu")
    config = {name: getattr(whole.generator.config, name) for name in whole.generator.config.__dataclass_fields__}
    generator = Generator(type(whole.generator.config)(**config | {"refinement": "attention"}))
    return Sampler(generator, whole.text_encoder, whole.vocabulary)


def test_a_layer_is_as_opaque_as_its_map():
    pixels = np.asarray(layer(torch.tensor([[0.0, 0.5], [1.0, 7.0]]), RED))
    assert (pixels[..., :3] == RED).all()
    assert pixels[..., 3].tolist() == [[0, round(127.5 * STRONGEST)], [round(255 * STRONGEST)] * 2]


def test_there_is_a_layer_for_each_word_on_one_scale(drawing):
    (refinement,) = refinements(drawing)
    assert refinement.resolution == 128
    opacity = [np.asarray(each)[..., 3] for each in refinement.attention]
    assert [each.shape for each in opacity] == [(64, 64)] * 3
    assert max(each.max() for each in opacity) == round(255 * STRONGEST)
    strongest = drawing.attention[0].flatten(1).max(1).values
    expected = (strongest / strongest.max() * 255 * STRONGEST).round()
    assert [each.max() for each in opacity] == expected.tolist()
    assert (np.asarray(refinement.response_gate)[0, 0, :3] == BLUE).all()


def test_shares_are_means_of_the_maps(drawing):
    (refinement,) = refinements(drawing)
    attention, gate = drawing.attention[0], drawing.response_gates[0]
    assert [row.word for row in refinement.words] == ["a", "red", "apple"]
    for row, weight, written in zip(refinement.words, attention, drawing.writing_gates[0], strict=True):
        assert row.read == pytest.approx(float(weight.mean()))
        assert row.taken == pytest.approx(float((weight * gate).mean()))
        assert row.written == pytest.approx(float(written))
    assert sum(row.read for row in refinement.words) == pytest.approx(1, abs=1e-5)
    assert sum(row.taken for row in refinement.words) == pytest.approx(refinement.taken, abs=1e-5)


def test_a_model_without_gates_has_attention_only(weights):
    (refinement,) = refinements(without_gates(weights).sample(["a red car"], maps=True)[0])
    assert len(refinement.attention) == 3
    assert refinement.response_gate is refinement.taken is None
    assert {(row.written, row.taken) for row in refinement.words} == {(None, None)}


def test_without_maps_there_is_nothing(weights):
    assert refinements(Sampler.from_pretrained(weights, device="cpu").sample(["a car"])[0]) == []
