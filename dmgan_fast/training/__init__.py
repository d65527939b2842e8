"""Training: the step, its memory policies and planner, the trainer, and sampling from what it made.

Names are loaded on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dmgan_fast.training.planner import Plan, plan
    from dmgan_fast.training.policy import MemoryPolicy
    from dmgan_fast.training.sampling import Sampler
    from dmgan_fast.training.step import Batch, StepConfig, TrainStep

_NAMES = {
    "Batch": "step",
    "MemoryPolicy": "policy",
    "Plan": "planner",
    "Sampler": "sampling",
    "StepConfig": "step",
    "TrainStep": "step",
    "plan": "planner",
}

__all__ = ["Batch", "MemoryPolicy", "Plan", "Sampler", "StepConfig", "TrainStep", "plan"]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(import_module(f"dmgan_fast.training.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'dmgan_fast.training' has no attribute {name!r}")
