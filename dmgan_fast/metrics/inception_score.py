"""Inception Score, exp(E_x KL(p(y|x) || p(y))), over splits (Salimans et al., 2016)."""

from __future__ import annotations

from typing import Any

import torch

from dmgan_fast.errors import InputError
from dmgan_fast.metrics._checks import at_least, matrix, warn

SUM_TOLERANCE = 1e-3  # half-precision softmax included


def inception_score(probabilities: Any, splits: int = 10) -> tuple[float, float]:
    """Score of class probabilities, computed in float64.

    The rows are cut into ``splits`` parts in the order given (row ``i N / splits`` to ``(i + 1) N / splits``), as the
    authors do; shuffle rows that are sorted by class.

    Args:
        probabilities: ``[N, C]``, a classifier's softmax for each image.
        splits: parts, each with a score of its own.

    Returns:
        mean of the parts' scores, and their standard deviation (N in the denominator, as the authors').

    Raises:
        InputError: for fewer rows than splits, or rows that are no probabilities.
    """
    at_least("inception_score: splits", splits, 1)
    rows = matrix("inception_score: probabilities", probabilities, rows=splits)
    count, classes = rows.shape
    if float(rows.min()) < 0 or float((rows.sum(1) - 1).abs().max()) > SUM_TOLERANCE:
        raise InputError(
            "inception_score: each row of probabilities must be 0 or more and sum to 1 (softmax the logits)"
        )
    if count // splits < classes:
        warn(
            f"inception_score: {count} images in {splits} splits can't score above {-(-count // splits)}, "
            f"and there are {classes} classes"
        )
    if float((rows.amax(0) - rows.amin(0)).max()) == 0:
        warn(f"inception_score: all {count} images have the same probabilities")
    scores = []
    for k in range(splits):
        part = rows[k * count // splits : (k + 1) * count // splits]
        marginal = part.mean(0, keepdim=True)
        divergence = (torch.xlogy(part, part) - torch.xlogy(part, marginal)).sum(1)
        scores.append(divergence.mean().exp())
    result = torch.stack(scores)
    return float(result.mean()), float(result.std(correction=0))
