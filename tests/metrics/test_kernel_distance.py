"""The kernel distance against its formula, and its promise to be zero in the mean for equal distributions."""

import numpy as np
import pytest
import torch

from dmgan_fast.errors import InputError
from dmgan_fast.metrics import EvaluationWarning, kernel_distance


def draw(count, size, seed, shift=0.0):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, size, dtype=torch.float64, generator=random) + shift


def by_formula(x, y):
    def kernel(a, b):
        return (float(a @ b) / len(a) + 1) ** 3

    m, n = len(x), len(y)
    within_x = sum(kernel(x[i], x[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    within_y = sum(kernel(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return within_x + within_y - 2 * sum(kernel(a, b) for a in x for b in y) / (m * n)


def test_formula():
    x, y = draw(12, 5, 0), draw(12, 5, 1, shift=0.3)
    mean, spread = kernel_distance(x, y, subsets=3, subset_size=12)
    assert mean == pytest.approx(by_formula(x, y), rel=1e-11)
    assert spread == pytest.approx(0, abs=1e-12)  # each subset is the whole set


def test_agrees_with_torchmetrics():
    from torchmetrics.image.kid import poly_mmd

    x, y = draw(50, 16, 0), draw(50, 16, 1, shift=0.2)
    assert kernel_distance(x, y, subsets=1, subset_size=50)[0] == pytest.approx(float(poly_mmd(x, y)), rel=1e-10)


def test_it_is_zero_in_the_mean_for_equal_distributions():
    """Ten images each time: the biased estimate would be far above zero."""
    values = np.array(
        [kernel_distance(draw(10, 4, 2 * k), draw(10, 4, 2 * k + 1), subsets=1, subset_size=10)[0] for k in range(400)]
    )
    error = values.std() / np.sqrt(len(values))
    assert abs(values.mean()) < 4 * error
    biased = np.mean([(draw(10, 4, k).square().mean(1) + 1).pow(3).mean().item() * 2 / 10 for k in range(20)])
    assert biased > 20 * error


def test_it_grows_with_the_shift():
    near, far = (
        kernel_distance(draw(300, 8, 0), draw(300, 8, 1, s), subsets=5, subset_size=200)[0] for s in (0.2, 0.6)
    )
    assert 0 < near < far


def test_the_seed_chooses_the_subsets():
    x, y = draw(200, 8, 0), draw(150, 8, 1)
    same = [kernel_distance(x, y, subsets=4, subset_size=50, seed=s) for s in (3, 3, 4)]
    assert same[0] == same[1] != same[2]


def test_equal_rows_are_warned_of():
    with pytest.warns(EvaluationWarning, match="all 20 rows of features2 are the same"):
        kernel_distance(draw(20, 4, 0), torch.ones(20, 4), subsets=1, subset_size=20)


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        (draw(9, 4, 0), draw(20, 4, 0), {"subset_size": 10}, "features1 must have at least 10 rows, got 9"),
        (draw(20, 4, 0), draw(20, 5, 0), {"subset_size": 10}, r"features2 must be \[M, 4\], got \[20, 5\]"),
        (draw(20, 4, 0), draw(20, 4, 0), {"subset_size": 1}, "subset_size must be at least 2, got 1"),
        (draw(20, 4, 0), draw(20, 4, 0), {"subset_size": 9, "subsets": 0}, "subsets must be at least 1, got 0"),
        (draw(20, 4, 0) * torch.inf, draw(20, 4, 0), {"subset_size": 9}, "features1: row 0 is not finite"),
    ],
)
def test_sets_that_cannot_be_compared_are_refused(x, y, options, message):
    with pytest.raises(InputError, match=message):
        kernel_distance(x, y, **options)
