"""Kernel distance, KID: the unbiased squared MMD with the kernel (x.y / D + 1)^3 (Binkowski et al., 2018)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dmgan_fast.errors import InputError
from dmgan_fast.metrics._checks import at_least, matrix, random_of, warn


def kernel_distance(
    features1: Any, features2: Any, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Kernel distance of two sets of features, computed in float64.

    Args:
        features1, features2: ``[N, D]`` and ``[M, D]``.
        subsets: how many random subsets of each set are compared; ``subset_size`` rows each, without repetition.
        seed: of the subsets.

    Returns:
        mean over the subsets, zero in expectation for equal distributions (so it may be below zero), and standard
        deviation over them.

    Raises:
        InputError: for widths that differ, or fewer rows than ``subset_size``.
    """
    at_least("kernel_distance: subsets", subsets, 1)
    at_least("kernel_distance: subset_size", subset_size, 2)
    first = matrix("kernel_distance: features1", features1, rows=subset_size)
    second = matrix("kernel_distance: features2", features2, rows=subset_size)
    if first.shape[1] != second.shape[1]:
        raise InputError(f"kernel_distance: features2 must be [M, {first.shape[1]}], got {list(second.shape)}")
    for name, rows in (("features1", first), ("features2", second)):
        if float((rows.amax(0) - rows.amin(0)).max()) == 0:
            warn(f"kernel_distance: all {len(rows)} rows of {name} are the same")
    random = random_of("kernel_distance: seed", seed)
    distances = torch.stack(
        [
            _mmd(*(rows[torch.randperm(len(rows), generator=random)[:subset_size]] for rows in (first, second)))
            for _ in range(subsets)
        ]
    )
    return float(distances.mean()), float(distances.std(correction=0))


def _mmd(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased squared MMD of ``[m, D]`` and ``[m, D]``: pairs of a row with itself are left out."""
    size = len(x)
    within = sum(kernel.sum() - kernel.diagonal().sum() for kernel in (_kernel(x, x), _kernel(y, y)))
    return within / (size * (size - 1)) - 2 * _kernel(x, y).mean()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.t() / x.shape[1] + 1) ** 3
