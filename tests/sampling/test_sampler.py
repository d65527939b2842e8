"""Samplers: pictures by their captions, seeds and places, ways between captions, truncated noise."""

from itertools import pairwise

import pytest
import torch

from dmgan_fast.errors import InputError
from dmgan_fast.sampling.sampler import truncate


def test_the_first_picture_of_a_caption_is_the_one_drawn_alone_whatever_the_batch(sampler):
    captions = ["a red apple", "blue"]
    alone = sampler.sample(captions, seed=3)
    several = sampler.sample(captions, seed=3, count=3, batch_size=2)
    assert [(d.number, d.copy) for d in several] == [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]
    for one, other in ((several[0], alone[0]), (several[3], alone[1])):
        assert (one.images[-1] - other.images[-1]).abs().max() < 1e-4
    again = sampler.sample(["a car", "blue"], seed=3, count=3)
    assert (again[5].images[-1] - several[5].images[-1]).abs().max() < 1e-4  # of its own place and number only
    sampler.sample(["blue"], seed=2**70)  # any seed is one


def test_pictures_come_as_they_are_ready_and_all_captions_are_checked_first(sampler, monkeypatch):
    drawn = []
    generate = sampler.generate
    monkeypatch.setattr(sampler, "generate", lambda *a, **k: drawn.append(len(a[0])) or generate(*a, **k))
    pictures = sampler.stream(["a red"] * 5, batch_size=2)
    assert drawn == []
    next(pictures)
    assert drawn == [2]
    assert len(list(pictures)) == 4
    with pytest.raises(InputError, match="caption 3, 'zz', has no word"):
        sampler.stream(["a", "red", "zz"])
    assert drawn == [2, 2, 1]


def test_the_way_between_two_captions_begins_and_ends_at_them(sampler):
    way = sampler.between("a red apple", "blue", steps=5, seed=4)
    ends = [sampler.sample([caption], seed=4)[0] for caption in ("a red apple", "blue")]
    assert len(way) == 5
    for drawing, end in ((way[0], ends[0]), (way[-1], ends[1])):
        assert (drawing.images[-1] - end.images[-1]).abs().max() < 1e-4
    moved = [(one.images[0] - other.images[0]).abs().mean() for one, other in pairwise(way)]
    assert min(moved) > 0
    single = sampler.between("a red apple", "blue", steps=5, seed=4, batch_size=1)
    tiled = sampler.between("a red apple", "blue", steps=5, seed=4, tile=64)
    for drawing, other, third in zip(way, single, tiled, strict=True):
        assert (drawing.images[-1] - other.images[-1]).abs().max() < 1e-4
        assert (drawing.images[-1] - third.images[-1]).abs().max() < 1e-4
    with pytest.raises(InputError, match="steps must be at least 2, both captions included, got 1"):
        sampler.between("a", "red", steps=1)


def test_truncated_noise_is_normal_noise_within_bounds_in_the_same_order():
    noise = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    for within in (0.3, 1.0, 2.0):
        cut = truncate(noise, within)
        assert cut.abs().max() <= within
        assert torch.equal(cut.argsort(stable=True)[::100], noise.argsort(stable=True)[::100])
        normal = torch.randn(400_000, generator=torch.Generator().manual_seed(1))
        expected = normal[normal.abs() <= within].std()
        assert cut.std() == pytest.approx(float(expected), rel=0.03)
    assert torch.equal(truncate(noise, None), noise)
    torch.testing.assert_close(truncate(noise, 8.0), noise, rtol=1e-4, atol=1e-4)


def test_truncation_makes_pictures_of_a_caption_more_alike(sampler):
    def spread(**options):
        images = torch.stack([d.images[0] for d in sampler.sample(["a red apple"], count=6, **options)])
        return float(images.std(0).mean())

    assert spread(truncation=0.1) < 0.7 * spread()
    with pytest.raises(InputError, match=r"truncation must be above 0, as 0\.7, got 0"):
        sampler.sample(["a"], truncation=0)


def test_noise_is_multiplied_and_without_any_every_seed_is_the_same_image(sampler):
    def last(**options):
        return sampler.sample(["a red apple"], **options)[0].images[-1]

    assert torch.equal(last(seed=1, noise_strength=0), last(seed=2, noise_strength=0))
    assert torch.equal(last(seed=1, noise_strength=1.0), last(seed=1))
    full, half = (sampler._noise([1], None, strength) for strength in (1.0, 0.5))
    assert all(torch.equal(0.5 * a, b) for a, b in zip(full, half, strict=True))
    way = sampler.between("a red apple", "blue", steps=2, seed=1, noise_strength=0)
    assert (way[0].images[-1] - last(seed=9, noise_strength=0)).abs().max() < 1e-5


@pytest.mark.parametrize("strength", [-0.1, float("nan"), float("inf")])
def test_a_noise_strength_that_is_none_is_refused(sampler, strength):
    with pytest.raises(InputError, match=r"noise_strength must be 0 or more, as 0\.5, got"):
        sampler.sample(["a car"], noise_strength=strength)
    with pytest.raises(InputError, match=r"noise_strength must be 0 or more, as 0\.5, got"):
        sampler.between("a car", "blue", noise_strength=strength)
