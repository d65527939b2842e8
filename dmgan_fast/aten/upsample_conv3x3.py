"""Nearest ×2 + conv3×3 on CPUs: in float32 by the native library, with 9 products per input pixel instead of 36; else
as one transposed convolution of PyTorch's, with 16.

Each input pixel meets the 3×3 kernel W once for each of its 2×2 copies; summed over the copies' offsets that is a
4×4 kernel W4 with ``conv3x3(upsample(x), W) = conv_transpose2d(x, W4, stride=2, padding=1)``. The gradient of x is
the stride-2 convolution with W4. oneDNN's forward and gradient of x are up to twice as fast in channels-last, its
gradient of the weight in NCHW; the native library takes NCHW. On GPUs the transposed convolution is cuDNN's.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from dmgan_fast import layouts
from dmgan_fast.aten import convolutions
from dmgan_fast.aten.convolutions import native_backward, native_forward
from dmgan_fast.aten.layout import laid_out
from dmgan_fast.devices import planned, type_of

HALF = (torch.bfloat16, torch.float16)
GEOMETRY = ([2, 2], [1, 1], [1, 1], True, [0, 0], 1)  # stride, padding, dilation, transposed, output padding, groups


def spread(weight: Tensor, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
    """``[O, I, 3, 3]`` → W4 ``[I, O, 4, 4]`` in that layout, summed in float32 or wider and rounded once."""
    if type_of(weight) == "cuda" and weight.dtype in HALF:
        return spread_by_product(weight, memory_format)
    flipped = weight.transpose(0, 1).flip(2, 3).contiguous(memory_format=memory_format)
    return F.avg_pool2d(flipped, 2, stride=1, padding=1, divisor_override=1)  # sums of the copies' taps


def gather(grad_wide: Tensor) -> Tensor:
    """The gradient of the 3×3 kernel from that of W4: the transpose of ``spread``."""
    if type_of(grad_wide) == "cuda" and grad_wide.dtype in HALF:
        return gather_by_product(grad_wide)
    total = F.avg_pool2d(grad_wide, 2, stride=1, divisor_override=1)
    return total.transpose(0, 1).flip(2, 3).contiguous()


def spread_by_product(weight: Tensor, memory_format: torch.memory_format) -> Tensor:
    """``spread`` in one kernel: products with ones are exact, and sixteen bits are summed in float32."""
    outputs, inputs = weight.shape[:2]
    taps = _taps(weight.device, weight.dtype, planned())  # [9, 16]
    flat = weight.reshape(outputs, inputs, 9)
    if memory_format is torch.channels_last:  # as it lies in memory: [I, 4 x 4, O]
        wide = torch.bmm(taps.t().expand(inputs, 16, 9), flat.permute(1, 2, 0))
        return wide.view(inputs, 4, 4, outputs).permute(0, 3, 1, 2)
    return torch.bmm(flat.transpose(0, 1), taps.expand(inputs, 9, 16)).view(inputs, outputs, 4, 4)


def gather_by_product(grad_wide: Tensor) -> Tensor:
    """``gather`` in one kernel, which writes its result as it has to lie."""
    inputs, outputs = grad_wide.shape[:2]
    taps = _taps(grad_wide.device, grad_wide.dtype, planned())  # [9, 16]
    if layouts.is_channels_last(grad_wide):
        flat = grad_wide.permute(0, 2, 3, 1).reshape(inputs, 16, outputs).transpose(1, 2)
    else:
        flat = grad_wide.reshape(inputs, outputs, 16)
    total = grad_wide.new_empty(outputs, inputs, 9)
    torch.bmm(flat, taps.t().expand(inputs, 16, 9), out=total.transpose(0, 1))
    return total.view(outputs, inputs, 3, 3)


@cache
def _taps(device: torch.device, dtype: torch.dtype, _planned: str | None) -> Tensor:
    """``[9, 16]``: 1 where a tap of the 3×3 kernel is part of a tap of W4. Of a plan it has no data."""
    ones = torch.eye(9, device=device).view(9, 1, 3, 3)
    return spread(ones).view(9, 16).to(dtype)


def _has_kernel(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32


def upsample_conv3x3_forward(x: Tensor, weight: Tensor) -> Tensor:
    return native_forward("upsample_conv3x3", x, weight) if _has_kernel(x) else transposed_forward(x, weight)


def upsample_conv3x3_backward(
    grad_y: Tensor, x: Tensor, weight: Tensor, want_x: bool, want_weight: bool
) -> tuple[Tensor, Tensor]:
    native_x = want_x and _has_kernel(x)
    native_weight = want_weight and _has_kernel(x)
    if native_weight:
        rule = convolutions.crossover("upsample_conv3x3")
        native_weight = rule.runs_weight(x.numel() // x.shape[1], *weight.shape[1::-1])
    grad_x, grad_weight = x.new_empty(0), weight.new_empty(0)
    if native_x or native_weight:
        grad_x, grad_weight = native_backward("upsample_conv3x3", grad_y, x, weight, native_x, native_weight)
    if want_x > native_x or want_weight > native_weight:
        others = transposed_backward(grad_y, x, weight, want_x > native_x, want_weight > native_weight)
        grad_x, grad_weight = (a if a.numel() else b for a, b in zip((grad_x, grad_weight), others, strict=True))
    return grad_x, grad_weight


def transposed_forward(x: Tensor, weight: Tensor) -> Tensor:
    """By PyTorch's transposed convolution, in the layout of ``x``."""
    wide = spread(weight, layouts.memory_format(x))
    y = F.conv_transpose2d(laid_out(x, torch.channels_last), wide, stride=2, padding=1)
    return laid_out(y, layouts.memory_format(x))


def transposed_backward(
    grad_y: Tensor, x: Tensor, weight: Tensor, want_x: bool, want_weight: bool
) -> tuple[Tensor, Tensor]:
    """Its gradients of x and of the 3×3 weight (size 0 if not wanted)."""
    wide = spread(weight, layouts.memory_format(x))
    grad_x, grad_weight = x.new_empty(0), weight.new_empty(0)
    if want_x:
        grad_x = F.conv2d(laid_out(grad_y, torch.channels_last), wide, stride=2, padding=1)
        grad_x = laid_out(grad_x, layouts.memory_format(x))
    if want_weight:
        maps = (laid_out(each, torch.contiguous_format) for each in (grad_y, x))
        _, grad_wide, _ = torch.ops.aten.convolution_backward(*maps, wide, None, *GEOMETRY, [False, True, False])
        grad_weight = gather(grad_wide)
    return grad_x, grad_weight
