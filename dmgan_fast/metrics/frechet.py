"""Frechet distance of two Gaussians, |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) (Heusel et al., 2017).

The trace of the root is taken as the sum of the singular values of A1^T A2 with C = A A^T. The usual square roots of
eigenvalues of C1 C2 lose half of the digits where a covariance is singular, so that a set is not at zero from itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dmgan_fast.errors import InputError
from dmgan_fast.metrics._checks import numbers, warn
from dmgan_fast.metrics.moments import FeatureMoments

TOLERANCE = 1e-6  # how far from symmetric and from positive a covariance may be, relative to its size


def frechet_distance(mean1: Any, cov1: Any, mean2: Any, cov2: Any) -> float:
    """Distance of ``N(mean1, cov1)`` and ``N(mean2, cov2)``, computed in float64.

    Args:
        mean1, mean2: ``[D]``.
        cov1, cov2: ``[D, D]``, symmetric and positive semi-definite; singular is fine.

    Returns:
        the squared 2-Wasserstein distance, which the literature calls FID for Inception features.

    Raises:
        InputError: for shapes that do not fit, values that are not finite, or a matrix that is no covariance.

    Example:
        >>> import torch
        >>> from dmgan_fast.metrics import frechet_distance
        >>> zero, one = torch.zeros(2), torch.eye(2)
        >>> round(frechet_distance(zero, one, zero + 3, 4 * one), 9)  # 2 * 3^2 + 2 * (2 - 1)^2
        20.0
    """
    first, second = _mean("mean1", mean1), _mean("mean2", mean2)
    if first.shape != second.shape:
        raise InputError(f"mean2 must have the shape of mean1, {list(first.shape)}, got {list(second.shape)}")
    traces, roots = zip(_factor("cov1", cov1, len(first)), _factor("cov2", cov2, len(first)), strict=True)
    overlap = torch.linalg.svdvals(roots[0].t() @ roots[1]).sum()
    distance = (first - second).square().sum() + traces[0] + traces[1] - 2 * overlap
    return max(0.0, float(distance))  # rounding can take a distance of zero below it


def frechet_of_moments(generated: FeatureMoments, real: FeatureMoments) -> float:
    """``frechet_distance`` of two sets; warns where the number says less than it seems to."""
    warn_of_few("real", real)
    return frechet_to_given(generated, real.mean, real.covariance)


def frechet_to_given(generated: FeatureMoments, mean: Any, covariance: Any) -> float:
    """``frechet_distance`` of a set to a published mean and covariance; warns as ``frechet_of_moments``."""
    warn_of_few("generated", generated)
    return frechet_distance(generated.mean, generated.covariance, mean, covariance)


def warn_of_few(name: str, moments: FeatureMoments) -> None:
    """Warn of images that are all the same, or fewer than features."""
    channels = len(moments.mean)
    if moments.constant:
        warn(f"the features of all {moments.count} {name} images are the same")
    elif moments.count <= channels:
        warn(
            f"{moments.count} {name} images are too few for {channels} features: their covariance is singular, the "
            "distance too large; compare it only with one of as many images"
        )


def _mean(name: str, values: Any) -> Tensor:
    mean = numbers(name, values)
    if mean.dim() != 1 or not len(mean):
        raise InputError(f"{name} must be [D], got {list(mean.shape)}")
    if not mean.isfinite().all():
        raise InputError(f"{name} must be finite")
    return mean


def _factor(name: str, values: Any, channels: int) -> tuple[Tensor, Tensor]:
    """Trace of C and a matrix A with C = A A^T."""
    covariance = numbers(name, values)
    if tuple(covariance.shape) != (channels, channels):
        raise InputError(f"{name} must be [{channels}, {channels}], got {list(covariance.shape)}")
    if not covariance.isfinite().all():
        raise InputError(f"{name} must be finite")
    size = float(covariance.abs().max())
    if float((covariance - covariance.t()).abs().max()) > TOLERANCE * size:
        raise InputError(f"{name} must be symmetric")
    eigenvalues, vectors = torch.linalg.eigh((covariance + covariance.t()) / 2)
    if float(eigenvalues[0]) < -TOLERANCE * size:
        raise InputError(
            f"{name} must be positive semi-definite, its smallest eigenvalue is {float(eigenvalues[0]):.3g}"
        )
    return covariance.trace(), vectors * eigenvalues.clamp(min=0).sqrt()
