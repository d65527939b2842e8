"""Bytes that PyTorch's convolutions hold on a CPU beside their inputs and results, at their own peak.

Which of PyTorch's implementations runs depends on type, shapes and the CPU: oneDNN takes sixteen-bit numbers only where
the CPU has instructions for them, else PyTorch writes out all windows of an image. So PyTorch is asked. What each
allocates was read off the allocations that its profiler shows for single convolutions.
"""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

BLOCK, PICTURE = 16, 3  # channels of oneDNN's blocked layout, and of an image


def bytes_inside(func: Any, args: Any, result: Any) -> int:
    """Of a call of an operator; 0 if it is no convolution."""
    if func is torch.ops.aten.convolution.default:
        x, weight, _, *geometry = args
        if _writes_windows(x, weight, geometry):
            return _relaid(x, weight) + _windows(x, weight, result, geometry)
        return _in_convolution(x, weight, result, transposed=geometry[3])
    if func is torch.ops.aten.convolution_backward.default:
        grad, x, weight, _, *geometry, mask = args
        if _writes_windows(x, weight, geometry):
            return _relaid(x, weight) + _windows_in_backward(x, weight, grad, geometry, mask)
        return _in_convolution_backward(grad, x, weight, geometry[0], *result[:2])
    return 0


# ------------------------------------------------------------------------------------------- PyTorch's own convolutions


def _writes_windows(x: Tensor, weight: Tensor, geometry: list[Any]) -> bool:
    plain = tuple(tuple(each) if isinstance(each, list) else each for each in geometry)
    return _implementation(x.dtype, x.shape, weight.shape, plain).startswith("Slow")


@cache
def _implementation(dtype: torch.dtype, x: torch.Size, weight: torch.Size, geometry: tuple[Any, ...]) -> str:
    """PyTorch's name of the implementation that it runs on this CPU."""
    with _disable_current_modes():
        pictures, kernels = (torch.empty(1, dtype=dtype).expand(shape) for shape in (x, weight))  # no data are read
        stride, padding, dilation, transposed, output_padding, groups = geometry
        chosen = torch._C._select_conv_backend(
            pictures, kernels, None, stride, padding, dilation, transposed, output_padding, groups, None
        )
    name: str = chosen.name
    return name


def _windows(x: Tensor, weight: Tensor, y: Tensor, geometry: list[Any]) -> int:
    """All windows of x, ``[B, I k k, H W]`` of y; transposed, those of y at the pixels of x."""
    stride, padding, *_ = geometry
    kernel = prod(weight.shape[2:])
    if geometry[3]:
        return x.shape[0] * weight.shape[1] * kernel * prod(x.shape[2:]) * x.itemsize
    if kernel == 1 and max(stride) == 1 and max(padding) == 0:
        return 0
    return x.shape[0] * x.shape[1] * kernel * prod(y.shape[2:]) * x.itemsize


def _windows_in_backward(x: Tensor, weight: Tensor, grad: Tensor, geometry: list[Any], mask: list[bool]) -> int:
    """All of them for the gradient of the weight; transposed, one image's for either gradient."""
    if geometry[3]:
        return _windows(x, weight, grad, geometry) // x.shape[0] if prod(weight.shape[2:]) > 1 else 0
    return _windows(x, weight, grad, geometry) if mask[1] else 0


def _relaid(x: Tensor, weight: Tensor) -> int:
    """Copies in channels-last where only one of both is."""
    last = _channels_last(x), _channels_last(weight)
    return sum(each.nbytes for each, there in zip((x, weight), last, strict=True) if not there) if any(last) else 0


# ------------------------------------------------------------------------------------------------------------- oneDNN

# oneDNN copies NCHW tensors into its blocked layout and its result back; channels-last it takes as it is, and only the
# weight is copied, twice.


def _in_convolution(x: Tensor, weight: Tensor, y: Tensor, transposed: bool) -> int:
    if _channels_last(x):
        return 2 * weight.nbytes
    blocked = _blocked(y)
    return max(_blocked(x, given=True) + weight.nbytes + blocked - y.nbytes, (2 if transposed else 1) * blocked)


def _in_convolution_backward(
    grad: Tensor, x: Tensor, weight: Tensor, stride: list[int], grad_x: Tensor | None, grad_weight: Tensor | None
) -> int:
    """First the gradient of x, then, while that is there, the gradient of the weight."""
    scratch = _scratch(grad, x, weight, stride)
    if _channels_last(x):
        of_x, of_weight = 2 * weight.nbytes, weight.nbytes + max(2 * weight.nbytes, scratch)
    else:
        both = _blocked(grad) + _blocked(x, given=True)
        of_x = max(both + weight.nbytes - x.nbytes, _blocked(x))
        of_weight = both + max(weight.nbytes, scratch)
    later = 0 if grad_weight is None else grad_weight.nbytes
    return max(of_x - later if grad_x is not None else 0, of_weight if grad_weight is not None else 0)


def _scratch(grad: Tensor, x: Tensor, weight: Tensor, stride: list[int]) -> int:
    """Beside the gradient of a sixteen-bit weight: its sum in float32, and both factors turned around, an image for
    each thread, or one that all threads share if it is strided."""
    if weight.dtype not in (torch.bfloat16, torch.float16):
        return 0
    at_once = min(len(x), torch.get_num_threads()) if max(stride) == 1 else 1
    return 2 * weight.nbytes + (x.nbytes + grad.nbytes) // len(x) * at_once


def _channels_last(x: Tensor) -> bool:
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _blocked(x: Tensor, *, given: bool = False) -> int:
    """Bytes of a copy in the blocked layout; images that are given are taken as they are."""
    channels = x.shape[1]
    if x.dim() != 4 or (given and channels <= PICTURE):
        return 0
    return x.nbytes // channels * (-(-channels // BLOCK) * BLOCK)
