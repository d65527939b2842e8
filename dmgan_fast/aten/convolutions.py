"""Convolutions on CPUs in float32, each direction by the faster of two: the native library, whose forms take fewer
products but have weights to transform, and PyTorch's own kernel.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from dmgan_fast import layouts, native
from dmgan_fast.aten.layout import laid_out

STRIDES = {"conv3x3": 1, "conv4x4_stride2": 2}


class Crossover(NamedTuple):
    """The native kernel runs results and gradients of x of at least ``pixels`` in a batch, and gradients of a weight
    with at least ``inputs`` and ``outputs``, summed over at least ``gradient_pixels``. Of ``upsample_conv3x3`` the
    smaller map's pixels count. Found by ``python -m benchmarks.crossover`` with AVX-512, and taken for all levels."""

    pixels: int
    inputs: int
    outputs: int
    gradient_pixels: int


CROSSOVERS = {
    "conv3x3": Crossover(1024, 16, 0, 16384),
    "conv4x4_stride2": Crossover(1024, 16, 0, 4096),
    "upsample_conv3x3": Crossover(0, 0, 16, 0),
}
FEW = 4  # channels of an image, and a bit
WIDE_PIXELS = 65536  # from which a few channels' results are bound by memory, where PyTorch's kernel is better
MANY_INPUTS, MANY_PIXELS = 32, 1024  # channels that make up for fewer pixels in conv3x3's gradient of the weight


def runs_forward(op: str, pixels: int, inputs: int) -> bool:
    """Whether the native kernel makes a result that has so many pixels in all of its batch."""
    return runs_input(op, pixels) and (op not in STRIDES or inputs > FEW or pixels < WIDE_PIXELS)


def runs_input(op: str, pixels: int) -> bool:
    """Whether it makes the gradient of x, of a result with so many pixels."""
    return pixels >= CROSSOVERS[op].pixels


def runs_weight(op: str, pixels: int, inputs: int, outputs: int) -> bool:
    """Whether it makes the gradient of the weight."""
    rule = CROSSOVERS[op]
    if op == "conv3x3" and outputs <= FEW:  # summed directly
        return pixels >= rule.pixels
    many = op == "conv3x3" and inputs >= MANY_INPUTS and pixels >= MANY_PIXELS
    return inputs >= rule.inputs and outputs >= rule.outputs and (many or pixels >= rule.gradient_pixels)


def native_forward(op: str, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The native convolution ``op`` in the layout of ``x``."""
    added = (bias,) if op in STRIDES else ()
    y = getattr(native.load("cpu"), f"{op}_forward")(laid_out(x, torch.contiguous_format), weight, *added)
    return laid_out(y, layouts.memory_format(x))


def native_backward(
    op: str, grad_y: Tensor, x: Tensor, weight: Tensor, want_x: bool, want_weight: bool
) -> tuple[Tensor, Tensor]:
    """Its gradients of x, in the layout of ``x``, and of the weight (size 0 if not wanted)."""
    maps = (laid_out(each, torch.contiguous_format) for each in (grad_y, x))
    grad_x, grad_weight = getattr(native.load("cpu"), f"{op}_backward")(*maps, weight, want_x, want_weight)
    return laid_out(grad_x, layouts.memory_format(x)) if want_x else grad_x, grad_weight


def forward(op: str, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``op`` of ``STRIDES``, by the faster kernel, in the layout of ``x``."""
    stride = STRIDES[op]
    if runs_forward(op, x.numel() // x.shape[1] // stride**2, x.shape[1]):
        return native_forward(op, x, weight, bias)
    return F.conv2d(x, weight, bias, stride=stride, padding=1)


def backward(
    op: str, grad_y: Tensor, x: Tensor, weight: Tensor, want_x: bool, want_weight: bool
) -> tuple[Tensor, Tensor]:
    """Its gradients of x and of the weight (size 0 if not wanted), each by the faster kernel."""
    pixels = grad_y.numel() // grad_y.shape[1]
    native_x = want_x and runs_input(op, pixels)
    native_weight = want_weight and runs_weight(op, pixels, x.shape[1], weight.shape[0])
    grad_x, grad_weight = x.new_empty(0), weight.new_empty(0)
    if native_x or native_weight:
        grad_x, grad_weight = native_backward(op, grad_y, x, weight, native_x, native_weight)
    others = [want_x and not native_x, want_weight and not native_weight, False]
    if any(others):
        geometry = ([STRIDES[op]] * 2, [1, 1], [1, 1], False, [0, 0], 1)
        found = torch.ops.aten.convolution_backward(grad_y, x, weight, None, *geometry, others)
        grad_x = found[0].contiguous(memory_format=layouts.memory_format(x)) if others[0] else grad_x
        grad_weight = found[1].contiguous() if others[1] else grad_weight
    return grad_x, grad_weight
