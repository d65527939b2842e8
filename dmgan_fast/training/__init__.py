"""Training: the step, its memory policies and planner, and the trainer.

Names are loaded on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dmgan_fast.runs.config import StepConfig
    from dmgan_fast.runs.policy import MemoryPolicy
    from dmgan_fast.sampling import Sampler
    from dmgan_fast.training.batch import Batch
    from dmgan_fast.training.planning.plan import Plan
    from dmgan_fast.training.planning.planner import plan
    from dmgan_fast.training.step import TrainStep

_NAMES = {
    "Batch": "training.batch",
    "MemoryPolicy": "runs.policy",
    "Plan": "training.planning.plan",
    "Sampler": "sampling",
    "StepConfig": "runs.config",
    "TrainStep": "training.step",
    "plan": "training.planning.planner",
}

__all__ = ["Batch", "MemoryPolicy", "Plan", "Sampler", "StepConfig", "TrainStep", "plan"]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(import_module(f"dmgan_fast.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'dmgan_fast.training' has no attribute {name!r}")
