"""Checks that the metrics share, and the warning for results that are right but easily misread."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from dmgan_fast.errors import require


class EvaluationWarning(UserWarning):
    """A result that follows its formula and still should not be compared with others; the message says why."""


def warn(message: str) -> None:
    """Issue an ``EvaluationWarning``."""
    warnings.warn(message, EvaluationWarning, stacklevel=3)


def matrix(what: str, values: Any, *, rows: int = 1) -> Tensor:
    """``values`` as a float64 CPU tensor ``[N, D]``, N at least ``rows``.

    Raises:
        InputError: naming ``what``, for another shape, fewer rows, or the first row that is not finite.
    """
    result = torch.as_tensor(values).detach().to("cpu", torch.float64)
    require(result.dim() == 2 and result.shape[1] > 0, lambda: f"{what} must be [N, D], got {list(result.shape)}")
    require(len(result) >= rows, lambda: f"{what} must have at least {rows} rows, got {len(result)}")
    finite = result.isfinite().all(1)
    first = int(finite.int().argmin())
    require(bool(finite.all()), lambda: f"{what}: row {first} is not finite (NaN or infinite)")
    return result


def at_least(what: str, value: int, least: int) -> None:
    """Raise ``InputError`` unless the whole number ``value`` is ``least`` or more."""
    require(value >= least, lambda: f"{what} must be at least {least}, got {value}")
