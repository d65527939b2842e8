"""Adam in one kernel, and a step of it that may be skipped."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Adam, Optimizer

from dmgan_fast.runs.config import StepConfig


def adam(model: nn.Module, learning_rate: float, config: StepConfig) -> Optimizer:
    """Adam in one kernel, without temporaries: NVIDIA apex's on a GPU where it is installed, else PyTorch's."""
    parameters = list(model.parameters())
    fused = apex_adam() if parameters[0].device.type == "cuda" else None
    if fused is not None:
        return fused(parameters, lr=learning_rate, betas=config.betas, capturable=config.cuda_graph)
    return Adam(parameters, lr=learning_rate, betas=config.betas, fused=True, capturable=config.cuda_graph)


def apex_adam() -> Callable[..., Optimizer] | None:
    """``apex.optimizers.FusedAdam``, if the installed apex is NVIDIA's and was built with it; PyPI's is another one."""
    try:
        optimizers = importlib.import_module("apex.optimizers")
    except ImportError:
        return None
    return getattr(optimizers, "FusedAdam", None)


def take_step(optimizer: Optimizer, scaler: GradScaler, name: str) -> dict[str, Tensor]:
    """Step and free the gradients; with a scaler that is on, whether the step was skipped."""
    if not scaler.is_enabled():
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return {}
    scale = scaler._scale
    assert scale is not None  # set by the first scale()
    before = scale.clone()
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return {f"skipped_{name}": (scale < before).to(torch.float32)}
