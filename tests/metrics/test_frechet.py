"""The Frechet distance against closed forms in float64."""

import math

import numpy as np
import pytest
import torch

from dmgan_fast.errors import InputError
from dmgan_fast.metrics import EvaluationWarning, FeatureMoments, frechet_distance
from dmgan_fast.metrics.frechet import frechet_of_moments, frechet_to_given


def covariance(size, seed, rank=None):
    random = torch.Generator().manual_seed(seed)
    factor = torch.randn(size, rank or size, dtype=torch.float64, generator=random)
    return factor @ factor.t() / size


def vector(size, seed):
    return torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_covariances_that_commute():
    """In a common basis the distance is |m1 - m2|^2 + sum (sqrt(a) - sqrt(b))^2."""
    basis, _ = torch.linalg.qr(torch.randn(40, 40, dtype=torch.float64))
    a, b = torch.rand(40, dtype=torch.float64) * 9, torch.rand(40, dtype=torch.float64)
    m1, m2 = vector(40, 1), vector(40, 2)
    expected = (m1 - m2).square().sum() + (a.sqrt() - b.sqrt()).square().sum()
    got = frechet_distance(m1, basis @ a.diag() @ basis.t(), m2, basis @ b.diag() @ basis.t())
    assert got == pytest.approx(float(expected), rel=1e-11)


@pytest.mark.parametrize("seed", range(5))
def test_two_dimensions_that_do_not_commute(seed):
    """tr (C1 C2)^(1/2) = sqrt(tr(C1 C2) + 2 sqrt(det C1 det C2)) in two dimensions."""
    c1, c2 = covariance(2, seed), covariance(2, seed + 100)
    root = math.sqrt(float((c1 @ c2).trace()) + 2 * math.sqrt(float(c1.det() * c2.det())))
    expected = float(c1.trace() + c2.trace()) - 2 * root
    zero = torch.zeros(2)
    assert frechet_distance(zero, c1, zero, c2) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_agrees_with_torchmetrics_where_covariances_are_regular():
    from torchmetrics.image.fid import _compute_fid

    m1, m2, c1, c2 = vector(64, 1), vector(64, 2), covariance(64, 1), covariance(64, 2)
    assert frechet_distance(m1, c1, m2, c2) == pytest.approx(float(_compute_fid(m1, c1, m2, c2)), rel=1e-7)


@pytest.mark.parametrize("rank", [None, 20], ids=["regular", "singular"])
def test_a_set_is_at_distance_zero_from_itself(rank):
    mean, cov = 100 * vector(256, 0), 100 * covariance(256, 1, rank)
    assert 0 <= frechet_distance(mean, cov, mean, cov) <= 1e-9


def test_a_singular_covariance_costs_no_digits_as_it_does_by_eigenvalues():
    rows = 10 * torch.randn(100, 512, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).relu()
    moments = FeatureMoments.of(rows)
    mean, cov = moments.mean, moments.covariance
    by_eigenvalues = 2 * cov.trace() - 2 * torch.linalg.eigvals(cov @ cov).sqrt().real.sum()
    assert abs(float(by_eigenvalues)) > 1e-4
    assert frechet_distance(mean, cov, mean, cov) < 1e-9


def test_it_is_symmetric_and_only_the_difference_of_means_counts():
    m1, m2, c1, c2 = vector(30, 1), vector(30, 2), covariance(30, 1), covariance(30, 2)
    distance = frechet_distance(m1, c1, m2, c2)
    assert frechet_distance(m2, c2, m1, c1) == pytest.approx(distance, rel=1e-11)
    assert frechet_distance(m1 + 5, c1, m2 + 5, c2) == pytest.approx(distance, rel=1e-11)


def test_a_shift_adds_its_square_and_a_scale_multiplies_by_its_square():
    m1, m2, c1, c2 = vector(30, 1), vector(30, 2), covariance(30, 1), covariance(30, 2)
    shift = vector(30, 3)
    apart = frechet_distance(m1, c1, m1, c2)
    assert frechet_distance(m1 + shift, c1, m1, c2) == pytest.approx(apart + float(shift.square().sum()), rel=1e-10)
    distance = frechet_distance(m1, c1, m2, c2)
    assert frechet_distance(7 * m1, 49 * c1, 7 * m2, 49 * c2) == pytest.approx(49 * distance, rel=1e-10)


def test_arrays_of_any_kind_and_one_dimension_are_taken():
    assert frechet_distance(np.zeros(1), np.ones((1, 1)), [3.0], [[4.0]]) == pytest.approx(10)
    half = torch.zeros(2, dtype=torch.float16)
    assert frechet_distance(half, torch.eye(2), half, 4 * torch.eye(2)) == pytest.approx(2)


EYE, ZERO = torch.eye(3), torch.zeros(3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(3, 1), EYE, ZERO, EYE), r"mean1 must be \[D\], got \[3, 1\]"),
        ((ZERO, EYE, torch.zeros(4), EYE), r"mean2 must have the shape of mean1, \[3\], got \[4\]"),
        ((ZERO, torch.eye(4), ZERO, EYE), r"cov1 must be \[3, 3\], got \[4, 4\]"),
        ((ZERO * torch.nan, EYE, ZERO, EYE), "mean1 must be finite"),
        ((ZERO, EYE, ZERO, EYE * torch.nan), "cov2 must be finite"),
        ((ZERO, EYE, ZERO, torch.ones(3, 3).triu()), "cov2 must be symmetric"),
        ((ZERO, -EYE, ZERO, EYE), "cov1 must be positive semi-definite, its smallest eigenvalue is -1"),
    ],
)
def test_what_is_no_gaussian_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        frechet_distance(*arguments)


def test_few_or_equal_images_are_warned_of():
    many, few, same = torch.rand(50, 8), torch.rand(8, 8), torch.ones(50, 8)
    with pytest.warns(EvaluationWarning, match="8 generated images are too few for 8 features"):
        frechet_of_moments(FeatureMoments.of(few), FeatureMoments.of(many))
    with pytest.warns(EvaluationWarning, match="8 generated images are too few"):
        frechet_to_given(FeatureMoments.of(few), torch.zeros(8), torch.eye(8))
    with pytest.warns(EvaluationWarning, match="features of all 50 real images are the same"):
        frechet_of_moments(FeatureMoments.of(many), FeatureMoments.of(same))


@pytest.mark.filterwarnings("error")
def test_enough_images_are_not_warned_of():
    random = torch.Generator().manual_seed(0)
    one, other = (torch.randn(5000, 8, dtype=torch.float64, generator=random) for _ in range(2))
    got = frechet_of_moments(FeatureMoments.of(one), FeatureMoments.of(other + 2))
    assert got == pytest.approx(8 * 4, rel=0.05)
