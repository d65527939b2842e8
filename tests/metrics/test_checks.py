"""Checks that the metrics share."""

import numpy as np
import pytest
import torch

from dmgan_fast.errors import InputError
from dmgan_fast.metrics._checks import EvaluationWarning, at_least, matrix, random_of, warn


@pytest.mark.parametrize(
    "values", [np.ones((2, 3), np.float16), [[1, 1, 1], [1, 1, 1]], torch.ones(2, 3, requires_grad=True)]
)
def test_features_of_any_kind_become_a_float64_matrix_without_gradient(values):
    found = matrix("features", values)
    assert (found.dtype, found.requires_grad) == (torch.float64, False)
    assert torch.equal(found, torch.ones(2, 3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.ones(3), r"features must be \[N, D\], got \[3\]"),
        (torch.ones(3, 0), r"features must be \[N, D\], got \[3, 0\]"),
        (torch.ones(1, 3), "features must have at least 2 rows, got 1"),
        (torch.tensor([[0.0], [float("nan")], [float("inf")]]), r"features: row 1 is not finite \(NaN or infinite\)"),
    ],
)
def test_what_is_no_matrix_of_finite_features_is_refused_by_name(values, message):
    with pytest.raises(InputError, match=message):
        matrix("features", values, rows=2)


def test_a_number_below_the_least_is_refused_with_both():
    at_least("splits", 2, 2)
    with pytest.raises(InputError, match="splits must be at least 2, got 1"):
        at_least("splits", 1, 2)


def test_a_warning_points_at_whoever_called_the_metric():
    def metric():
        warn("few rows")

    with pytest.warns(EvaluationWarning, match="few rows") as caught:
        metric()
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (None, "NoneType"),
        ("text", "str"),
        (torch.ones(2, 3, dtype=torch.complex64), "torch.complex64"),
        (torch.ones(2, 3, device="meta"), "sparse, nested, quantized or without data"),
        (torch.ones(2, 3).to_sparse(), "sparse, nested, quantized or without data"),
    ],
)
def test_what_holds_no_real_numbers_is_refused_and_loses_no_imaginary_part(values, found):
    with pytest.raises(InputError, match=rf"features must be an array of real numbers, got .*{found}"):
        matrix("features", values)


@pytest.mark.parametrize("seed", [None, "a", 2.5, 1 << 64])
def test_a_seed_that_is_none_is_refused_by_name(seed):
    with pytest.raises(InputError, match="kid: seed must be a whole number of 64 bits, got"):
        random_of("kid: seed", seed)
