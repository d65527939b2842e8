"""Weights in sixteen bits for one forward and backward, rounded in a few kernels instead of one or two for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def autocast_dtype(weight: Tensor) -> torch.dtype | None:
    """The type that autocast rounds the weight to; None if it does not."""
    kind = weight.device.type
    if weight.dtype != torch.float32 or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)


def rounded(parameters: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Each in ``dtype`` and in its layout, by as few kernels as can be; not differentiated."""
    found = [torch.empty_like(parameter, dtype=dtype) for parameter in parameters]
    torch._foreach_copy_(found, [parameter.detach() for parameter in parameters])
    return found


def round_together(parameters: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Each in ``dtype`` and in its layout; gradients are widened together, once all are there."""
    together: tuple[Tensor, ...] = _Round.apply(dtype, *parameters)
    return together


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.wide = parameters[0].dtype
        return tuple(rounded(parameters, dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        found = [None if gradient is None else torch.empty_like(gradient, dtype=ctx.wide) for gradient in grads]
        reached = [gradient for gradient in grads if gradient is not None]
        if reached:
            torch._foreach_copy_([wide for wide in found if wide is not None], reached)
        return None, *found
