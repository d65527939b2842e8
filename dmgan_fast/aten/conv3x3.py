"""conv3x3 by the native library, which takes NCHW; channels-last pictures are laid out for it, and its results back."""

from __future__ import annotations

import torch
from torch import Tensor

from dmgan_fast import layouts, native
from dmgan_fast.aten.layout import laid_out


def conv3x3_forward(x: Tensor, weight: Tensor) -> Tensor:
    y = native.load("cpu").conv3x3_forward(laid_out(x, torch.contiguous_format), weight)
    return laid_out(y, layouts.memory_format(x))


def conv3x3_backward(
    grad_y: Tensor, x: Tensor, weight: Tensor, want_x: bool, want_weight: bool
) -> tuple[Tensor, Tensor]:
    pictures = (laid_out(each, torch.contiguous_format) for each in (grad_y, x))
    grad_x, grad_weight = native.load("cpu").conv3x3_backward(*pictures, weight, want_x, want_weight)
    return laid_out(grad_x, layouts.memory_format(x)) if want_x else grad_x, grad_weight
