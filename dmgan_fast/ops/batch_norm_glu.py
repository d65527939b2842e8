"""Batch norm + GLU: checks and dispatch."""

from __future__ import annotations

from torch import Tensor

from dmgan_fast.errors import InputError
from dmgan_fast.ops import _backends, _checks

OP = "batch_norm_glu"


def batch_norm_glu(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
    backend: str | None = None,
) -> Tensor:
    _checks.shape(OP, "x", x, ("B", "2C", "H", "W"))
    channels = x.shape[1]
    if channels % 2:
        raise InputError(f"{OP}: x must have an even number of channels, got {channels}")
    tensors = {"weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var}
    for name, tensor in tensors.items():
        if tensor is not None:
            _checks.shape(OP, name, tensor, (channels,))
            if tensor.device != x.device:
                raise InputError(f"{OP}: {name} is on {tensor.device}, x is on {x.device}; they must be on one device")
    if not training and (running_mean is None or running_var is None):
        raise InputError(f"{OP}: evaluation needs running_mean and running_var")
    if training and x.numel() == channels:
        raise InputError(f"{OP}: one value per channel has no variance to train with, got x {list(x.shape)}")
    result: Tensor = _backends.choose(OP, backend)(
        x, weight, bias, running_mean, running_var, training=training, momentum=momentum, eps=eps
    )
    return result
