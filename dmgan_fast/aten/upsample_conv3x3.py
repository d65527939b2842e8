"""Nearest ×2 + conv3×3 as one transposed convolution: 16 products per input pixel instead of 36.

Each input pixel meets the 3×3 kernel W once for each of its 2×2 copies; summed over the copies' offsets that is a
4×4 kernel W4 with ``conv3x3(upsample(x), W) = conv_transpose2d(x, W4, stride=2, padding=1)``. The gradient of x is
the stride-2 convolution with W4.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dmgan_fast import native

SHIFTS = ((0, 0), (0, 1), (1, 0), (1, 1))  # places of an up-sampled pixel's copies
GEOMETRY = ([2, 2], [1, 1], [1, 1], True, [0, 0], 1)  # stride, padding, dilation, transposed, output padding, groups


def spread(weight: Tensor) -> Tensor:
    """``[O, I, 3, 3]`` → W4 ``[I, O, 4, 4]``, summed in float32 and rounded once."""
    flipped = weight.float().flip(2, 3).transpose(0, 1)
    wide = flipped.new_zeros((*flipped.shape[:2], 4, 4))
    for i, j in SHIFTS:
        wide[:, :, i : i + 3, j : j + 3] += flipped
    return wide.to(weight.dtype)


def gather(grad_wide: Tensor) -> Tensor:
    """The gradient of the 3×3 kernel from that of W4: the transpose of ``spread``."""
    wide = grad_wide.float()
    total = sum(wide[:, :, i : i + 3, j : j + 3] for i, j in SHIFTS)
    assert isinstance(total, Tensor)
    return total.transpose(0, 1).flip(2, 3).contiguous().to(grad_wide.dtype)


def upsample_conv3x3_forward(x: Tensor, weight: Tensor) -> Tensor:
    wide = spread(weight)
    if _is_nchw_on_cpu(x):
        return _relayout(F.conv_transpose2d(_relayout(x), wide, stride=2, padding=1))
    return F.conv_transpose2d(x, wide, stride=2, padding=1)


def upsample_conv3x3_backward(
    grad_y: Tensor, x: Tensor, weight: Tensor, want_x: bool, want_weight: bool
) -> tuple[Tensor, Tensor]:
    wide = spread(weight)

    def backward(grad_y: Tensor, x: Tensor, want_x: bool, want_weight: bool) -> tuple[Tensor, Tensor]:
        mask = [want_x, want_weight, False]
        grads = torch.ops.aten.convolution_backward(grad_y, x, wide, None, *GEOMETRY, mask)
        return grads[0], grads[1]

    if x.device.type != "cpu" or x.shape[1] == 1 or x.shape[2:].numel() == 1:
        grad_x, grad_wide = backward(grad_y, x, want_x, want_weight)
    else:
        nchw = x.is_contiguous()
        other = _relayout(grad_y), _relayout(x)
        (grad_first, first), (grad_last, last) = ((grad_y, x), other) if nchw else (other, (grad_y, x))
        grad_x = backward(grad_last, last, True, False)[0] if want_x else x
        if want_x and nchw:
            grad_x = _relayout(grad_x)
        grad_wide = backward(grad_first, first, False, True)[1] if want_weight else wide
    return grad_x if want_x else x.new_empty(0), gather(grad_wide) if want_weight else weight.new_empty(0)


# oneDNN's forward and gradient of x are up to twice as fast in channels-last, its gradient of the weight in NCHW.


def _is_nchw_on_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.is_contiguous() and x.shape[1] > 1 and x.shape[2:].numel() > 1


def _relayout(x: Tensor) -> Tensor:
    relaid: Tensor = native.load("cpu").relayout(x)
    return relaid
