"""Checks that the metrics share, and the warning for results that are right but easily misread."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from dmgan_fast.errors import InputError, require


class EvaluationWarning(UserWarning):
    """A result that follows its formula and still should not be compared with others; the message says why."""


def warn(message: str) -> None:
    """Issue an ``EvaluationWarning``."""
    warnings.warn(message, EvaluationWarning, stacklevel=3)


def numbers(what: str, values: Any) -> Tensor:
    """``values`` as a float64 CPU tensor.

    Raises:
        InputError: naming ``what``, for anything but real numbers in an array.
    """
    try:
        given = torch.as_tensor(values).detach()
        plain = given.layout == torch.strided and not (given.is_meta or given.is_nested or given.is_quantized)
        if plain and not given.dtype.is_complex:
            return given.to("cpu", torch.float64)
        found = str(given.dtype) if plain else "a tensor that is sparse, nested, quantized or without data"
    except (TypeError, ValueError, RuntimeError, OverflowError):
        found = type(values).__name__
    raise InputError(f"{what} must be an array of real numbers, got {found}")


def matrix(what: str, values: Any, *, rows: int = 1) -> Tensor:
    """``values`` as a float64 CPU tensor ``[N, D]``, N at least ``rows``.

    Raises:
        InputError: naming ``what``, for another shape, fewer rows, or the first row that is not finite.
    """
    result = numbers(what, values)
    require(result.dim() == 2 and result.shape[1] > 0, lambda: f"{what} must be [N, D], got {list(result.shape)}")
    require(len(result) >= rows, lambda: f"{what} must have at least {rows} rows, got {len(result)}")
    finite = result.isfinite().all(1)
    require(bool(finite.all()), lambda: f"{what}: row {int(finite.int().argmin())} is not finite (NaN or infinite)")
    return result


def at_least(what: str, value: int, least: int) -> None:
    """Raise ``InputError`` unless ``value`` is a whole number, ``least`` or more."""
    require(isinstance(value, int), lambda: f"{what} must be a whole number, got {value!r}")
    require(value >= least, lambda: f"{what} must be at least {least}, got {value}")


def random_of(what: str, seed: int) -> torch.Generator:
    """Randomness of ``seed``.

    Raises:
        InputError: naming ``what``, for a seed that PyTorch does not take.
    """
    fits = isinstance(seed, int) and -(1 << 63) <= seed < 1 << 64
    require(fits, lambda: f"{what} must be a whole number of 64 bits, got {seed!r}")
    return torch.Generator().manual_seed(seed)
