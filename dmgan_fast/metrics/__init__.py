"""Measures of features alone: Frechet and kernel distances, Inception Score, R-precision. They need no network."""

from dmgan_fast.metrics._checks import EvaluationWarning
from dmgan_fast.metrics.frechet import frechet_distance
from dmgan_fast.metrics.inception_score import inception_score
from dmgan_fast.metrics.kernel_distance import kernel_distance
from dmgan_fast.metrics.moments import FeatureMoments
from dmgan_fast.metrics.retrieval import r_precision

__all__ = [
    "EvaluationWarning",
    "FeatureMoments",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "r_precision",
]
