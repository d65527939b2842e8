"""R-precision of an oracle, of chance and of planted rankings; how candidates are sampled."""

import math

import numpy as np
import pytest
import torch

from dmgan_fast.errors import InputError
from dmgan_fast.metrics import EvaluationWarning, r_precision
from dmgan_fast.metrics.retrieval import _mismatching


def codes(count, size=16, seed=0):
    return torch.randn(count, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_an_oracle_is_always_right():
    texts = codes(400)
    assert r_precision(3 * texts, texts) == (100, 0)
    assert r_precision(3 * texts, texts, slicing="official") == (100, 0)


def test_unrelated_codes_score_chance():
    count = 5000
    mean, spread = r_precision(codes(count, seed=1), codes(count, seed=2))
    error = 100 * math.sqrt(0.01 * 0.99 / count)
    assert abs(mean - 1) < 4 * error
    assert spread == pytest.approx(error * math.sqrt(10), rel=0.7)  # of a fold of 500


def test_planted_rankings_are_counted_exactly():
    """147 of 400 images show their caption, the others its opposite."""
    texts = codes(400)
    images = torch.where(torch.arange(400)[:, None] < 147, texts, -texts)
    mean, spread = r_precision(images, texts)
    assert mean == pytest.approx(100 * 147 / 400, rel=1e-12)
    assert 0 < spread < 20


@pytest.mark.parametrize("count", [100, 103])
def test_with_every_other_row_as_candidate_it_is_the_brute_force_ranking(count):
    images, texts = codes(count, seed=1) + codes(count, seed=2), codes(count, seed=2)
    cosines = torch.nn.functional.normalize(images) @ torch.nn.functional.normalize(texts).t()
    right = cosines.argmax(1) == torch.arange(count)
    assert 0.1 < right.double().mean() < 0.9
    assert r_precision(images, texts, candidates=count)[0] == pytest.approx(
        100 * float(right.double().mean()), rel=1e-12
    )


def test_fewer_candidates_are_easier():
    images, texts = codes(500, seed=1) + codes(500, seed=2), codes(500, seed=2)
    scores = [r_precision(images, texts, candidates=n)[0] for n in (2, 10, 100, 500)]
    assert scores == sorted(scores, reverse=True)


def test_deviation_is_that_of_the_folds():
    texts = codes(200)
    images = torch.where(torch.arange(200)[:, None] % 2 == 0, texts, -texts)
    mean, spread = r_precision(images, texts, candidates=2, folds=200)
    assert (mean, spread) == pytest.approx((50, 50))  # each fold is one image, right or wrong


def test_official_slicing_drops_the_last_of_each_fold():
    """With folds of two images only every other one counts, so its mean is a multiple of 1 / folds."""
    texts = codes(200)
    images = torch.where(torch.arange(200)[:, None] < 60, texts, -texts)
    mean, spread = r_precision(images, texts, folds=100, slicing="official")
    assert mean == pytest.approx(round(mean))
    assert mean == pytest.approx(30, abs=18)
    assert spread == pytest.approx(math.sqrt(mean * (100 - mean)), rel=1e-9)
    assert r_precision(images, texts, folds=100)[0] == pytest.approx(30, rel=1e-12)


def test_codes_that_tell_nothing_apart_score_chance():
    images, texts = codes(300), torch.ones(300, 16)
    with pytest.warns(EvaluationWarning, match="all 300 rows of text_codes are the same, so the result is chance"):
        assert r_precision(images, texts) == pytest.approx((1, 0))
    with pytest.warns(EvaluationWarning, match="all 300 rows of image_codes are the same"):
        mean, _ = r_precision(torch.ones(300, 16), codes(300))
    assert mean <= 4


def test_a_tie_is_shared():
    texts = codes(100).repeat_interleave(2, 0)  # each caption twice, so one other is as good as the own
    assert r_precision(texts, texts, candidates=200)[0] == pytest.approx(50)
    assert r_precision(texts, texts, candidates=100, class_ids=torch.arange(200) // 2)[0] == 100


def test_the_seed_chooses_the_candidates():
    images, texts = codes(300, seed=1) + codes(300, seed=2), codes(300, seed=2)
    results = [r_precision(images, texts, candidates=20, seed=s) for s in (0, 0, 1)]
    assert results[0] == results[1] != results[2]


@pytest.mark.parametrize("classes", [None, torch.tensor([5, 2, 2, 9, 5, 2, 7, 9, 0, 5] * 4)])
def test_candidates_are_of_other_classes_without_repetition_and_uniform(classes):
    count, wanted = 40, 12
    own = torch.arange(count) if classes is None else classes
    seen = np.zeros((count, count))
    for seed in range(300):
        chosen = _mismatching(count, wanted, classes, torch.Generator().manual_seed(seed))
        assert all(len(set(row)) == wanted for row in chosen.tolist())
        assert not (own[chosen] == own[:, None]).any()
        np.add.at(seen, (np.arange(count)[:, None], chosen.numpy()), 1)
    for row in range(count):
        allowed = (own != own[row]).numpy()
        assert not seen[row][~allowed].any()
        share = wanted / allowed.sum()
        expected, deviation = 300 * share, math.sqrt(300 * share * (1 - share))
        assert np.abs(seen[row][allowed] - expected).max() < 5 * deviation


def test_all_others_are_candidates_if_so_many_are_asked_for():
    chosen = _mismatching(5, 4, None, torch.Generator())
    assert [sorted(row) for row in chosen.tolist()] == [[k for k in range(5) if k != row] for row in range(5)]


@pytest.mark.parametrize(
    ("images", "texts", "options", "message"),
    [
        (codes(99), codes(99), {}, "image_codes must have at least 100 rows, got 99"),
        (codes(99), codes(99), {"candidates": 10, "folds": 100}, "at least 100 rows, got 99"),
        (codes(150), codes(150, 8), {}, r"text_codes must be \[150, 16\], got \[150, 8\]"),
        (codes(150), codes(150), {"candidates": 1}, "candidates must be at least 2, got 1"),
        (codes(150), codes(150), {"folds": 0}, "folds must be at least 1, got 0"),
        (codes(150), codes(150), {"slicing": "rough"}, "slicing must be 'exact' or 'official', got 'rough'"),
        (codes(150) * 0, codes(150), {}, "row 0 of image_codes has length zero"),
        (codes(150), codes(150) * torch.nan, {}, "text_codes: row 0 is not finite"),
        (codes(150), codes(150), {"class_ids": torch.zeros(3)}, r"class_ids must be \[150\], got \[3\]"),
        (
            codes(150),
            codes(150),
            {"class_ids": torch.arange(150) // 75},
            "row 0 has 75 captions of other classes, but candidates=100 needs 99",
        ),
    ],
)
def test_codes_that_cannot_be_ranked_are_refused(images, texts, options, message):
    with pytest.raises(InputError, match=message):
        r_precision(images, texts, **options)
