"""Pictures in the layout that an op is fastest in on a CPU, and the native library's convolutions, which take NCHW."""

from __future__ import annotations

import torch
from torch import Tensor

from dmgan_fast import layouts, native


def laid_out(x: Tensor, memory_format: torch.memory_format) -> Tensor:
    """A dense ``x [B, C, H, W]`` on a CPU in that layout; on another device as it is."""
    if x.device.type != "cpu" or x.is_contiguous(memory_format=memory_format):
        return x
    relaid: Tensor = native.load("cpu").relayout(x)
    return relaid


def native_forward(op: str, x: Tensor, weight: Tensor) -> Tensor:
    """The native convolution ``op`` in the layout of ``x``."""
    y = getattr(native.load("cpu"), f"{op}_forward")(laid_out(x, torch.contiguous_format), weight)
    return laid_out(y, layouts.memory_format(x))


def native_backward(
    op: str, grad_y: Tensor, x: Tensor, weight: Tensor, want_x: bool, want_weight: bool
) -> tuple[Tensor, Tensor]:
    """Its gradients of x, in the layout of ``x``, and of the weight (size 0 if not wanted)."""
    pictures = (laid_out(each, torch.contiguous_format) for each in (grad_y, x))
    grad_x, grad_weight = getattr(native.load("cpu"), f"{op}_backward")(*pictures, weight, want_x, want_weight)
    return laid_out(grad_x, layouts.memory_format(x)) if want_x else grad_x, grad_weight
