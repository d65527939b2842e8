"""Studies: they measure what they say, and run whole on a small ablation."""

import json

import pytest
import torch

from dmgan_fast.errors import CheckpointError, InputError
from dmgan_fast.evaluation.extractors import DAMSMFeatures
from dmgan_fast.experiments import study
from dmgan_fast.experiments.studies import (
    NOISES,
    blurred,
    codes_of,
    degraded,
    emptied,
    gates_of,
    noisy,
    variance_shares,
)
from dmgan_fast.sampling.sampler import Sampler


@pytest.fixture
def sampler(ablation):
    return Sampler.from_pretrained(ablation / "runs" / "dm-gan-seed0")


def planted(dependence):
    """Gates ``[4 captions, 3 noises, 2 words]`` of two words each, which depend on one thing only."""
    said = [[1, 2], [2, 1], [1, 2], [2, 1]]
    random = torch.Generator().manual_seed(0)
    by_caption, by_noise = torch.rand(4, generator=random), torch.rand(4, 3, 2, generator=random)
    gates = torch.empty(4, 3, 2)
    for k, caption in enumerate(said):
        for position, word in enumerate(caption):
            values = {"word": torch.tensor(0.2 * word), "caption": by_caption[k], "image": by_noise[k, :, position]}
            gates[k, :, position] = values[dependence]
    return gates, said


@pytest.mark.parametrize("dependence", ["word", "caption"])
def test_variance_is_found_where_it_comes_from(dependence):
    shares, _ = variance_shares(*planted(dependence))
    assert shares[dependence] == pytest.approx(1, abs=1e-6)
    assert sum(shares.values()) == pytest.approx(1)


def test_variance_of_noise_is_mostly_the_images_and_shares_add_up():
    shares, by_word = variance_shares(*planted("image"))
    assert shares["image"] > 0.5
    assert sum(shares.values()) == pytest.approx(1)
    assert {word: len(means) for word, means in by_word.items()} == {1: 4, 2: 4}


def test_gates_are_those_of_the_words_and_padding_has_none(sampler):
    said = [[1, 2, 3], [2]]
    (gates,) = gates_of(sampler, said)
    assert gates.shape == (2, NOISES, 3)
    assert gates[0].isfinite().all()
    assert gates[1, :, 0].isfinite().all()
    assert gates[1, :, 1:].isnan().all()
    assert all(len(set(of_word.tolist())) == NOISES for of_word in gates[0].T)  # another image, another gate
    memory = sampler.generator.stages[0].memory
    with torch.no_grad():
        memory.gate_image.zero_()
        words, _ = sampler.text_encoder(torch.tensor([said[0]]), torch.tensor([3]))
        expected = torch.sigmoid(memory.gate_word @ words)
    (of_words,) = gates_of(sampler, said)
    assert torch.allclose(of_words[0], expected.expand(NOISES, 3), atol=1e-6)


def test_degradation_reaches_features_and_their_mean_and_ends(sampler):
    stage, size = sampler.generator.initial_stage, sampler.generator.config
    given = torch.randn(2, size.condition_channels), torch.randn(2, size.noise_channels)
    with torch.no_grad():
        h, mean = stage(*given)
        with degraded(sampler.generator, lambda h: 3 * h):
            other, other_mean = stage(*given)
        again, _ = stage(*given)
    assert torch.allclose(other, 3 * h)
    assert torch.allclose(other_mean, 3 * mean, atol=1e-5)
    assert torch.equal(again, h)


def test_degraded_images_have_other_codes_and_undegraded_ones_the_same(sampler, encoders):
    judge = DAMSMFeatures(encoders)
    said = [[1, 2, 3], [2]]
    clean, again = codes_of(sampler, said, judge), codes_of(sampler, said, judge)
    with degraded(sampler.generator, lambda h: -100 * h):  # so far that 8-bit images of untrained weights show it
        other = codes_of(sampler, said, judge)
    for one, same, changed in zip(clean, again, other, strict=True):
        assert torch.equal(one, same)
        assert not torch.equal(one, changed)


def test_degradations_do_what_they_are_called():
    h = torch.randn(2, 8, 16, 16)
    assert torch.equal(noisy(h, strength=0.0), h)
    added = noisy(h, strength=2.0) - h
    assert 1.8 < float(added.std() / h.std()) < 2.2
    coarse = blurred(h, strength=4)
    assert torch.equal(coarse[..., ::4, ::4].repeat_interleave(4, 2).repeat_interleave(4, 3), coarse)
    assert torch.allclose(coarse.mean((2, 3)), h.mean((2, 3)), atol=1e-6)
    left = emptied(h, strength=0.25)
    assert float(left[:, :2].std((2, 3)).max()) < 1e-6
    assert torch.equal(left[:, 2:], h[:, 2:])


@pytest.mark.parametrize("name", ["recovery", "writing-gate", "memory"])
def test_a_study_leaves_page_figure_and_data(ablation, tmp_path, name):
    page = study(name, ablation, tmp_path)
    assert page.read_text().startswith("# ")
    assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    report = json.loads((tmp_path / f"{name}.json").read_text())
    if name == "recovery":
        rows = {(r["variant"], r["seed"], r["kind"], r["strength"]): r for r in report["rows"]}
        assert len(rows) == 2 * 2 * 10
        assert max(rows["dm-gan", 0, "none", 0.0]["distance"]) < 1e-6
    if name == "writing-gate":
        assert [(row["seed"], row["refinement"]) for row in report["rows"]] == [(0, 1), (1, 1)]
        assert all(0 < row["mean"] < 1 for row in report["rows"])


def test_what_is_missing_is_named(ablation, tmp_path):
    with pytest.raises(CheckpointError, match="no runs of memory, memory\\+writing-gate, memory\\+response-gate"):
        study("gates", ablation, tmp_path / "out")
    with pytest.raises(CheckpointError, match="holds no finished `dmgan-fast ablate`"):
        study("memory", tmp_path, tmp_path / "out")
    with pytest.raises(InputError, match="study must be one of recovery, writing-gate, memory, gates, got 'all'"):
        study("all", ablation, tmp_path / "out")
    assert not (tmp_path / "out").exists()
