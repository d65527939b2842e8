"""How good images are: Frechet and kernel distances, Inception Score, R-precision, and whole evaluations.

docs/evaluation.md says what each number is and what it may be compared with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dmgan_fast.metrics import (
    EvaluationWarning,
    FeatureMoments,
    frechet_distance,
    inception_score,
    kernel_distance,
    r_precision,
)

if TYPE_CHECKING:
    from dmgan_fast.evaluation.config import EvaluationConfig
    from dmgan_fast.evaluation.run import evaluate

__all__ = [
    "EvaluationConfig",
    "EvaluationWarning",
    "FeatureMoments",
    "evaluate",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "r_precision",
]


def __getattr__(name: str) -> Any:
    if name in ("EvaluationConfig", "evaluate"):  # these read images and so load torchvision; the metrics do not
        from dmgan_fast.evaluation import run

        return getattr(run, name)
    raise AttributeError(f"module 'dmgan_fast.evaluation' has no attribute {name!r}")
