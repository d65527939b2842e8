"""Convolutions on CPUs in float32, each direction by the fastest of three: the native library, whose forms take fewer
products but have weights to transform; PyTorch's own kernel; and, where the weight is far larger than the maps, a
matrix product, which reads a weight as it lies, while PyTorch's kernel lays it out anew at every call.
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
    "conv4x4_stride2": Crossover(1024, 16, 0, 1024),
    "upsample_conv3x3": Crossover(0, 0, 16, 0),
}
FEW = 4  # channels of an image, and a bit
WIDE_PIXELS = 65536  # from which a few channels' results are bound by memory, where PyTorch's kernel is better
MANY_INPUTS, MANY_PIXELS = 32, 1024  # channels that make up for fewer pixels in conv3x3's gradient of the weight
MATRIX_WEIGHTS = 2**23  # elements of a weight, from which what the native kernel leaves is a matrix product,
MATRIX_PIXELS = {"conv3x3": range(17, 1025), "conv4x4_stride2": range(1, 1025)}  # with so many pixels


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


def runs_as_matrix(op: str, pixels: int, weight: Tensor) -> bool:
    """Whether what the native kernel leaves is a matrix product."""
    return weight.numel() >= MATRIX_WEIGHTS and pixels in MATRIX_PIXELS[op]


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


def columns_of(x: Tensor, taps: int, stride: int) -> Tensor:
    """``[I * taps * taps, pixels]``: what each result is made of; padding 1."""
    windows = F.pad(x, (1, 1, 1, 1)).unfold(2, taps, stride).unfold(3, taps, stride)
    return windows.permute(1, 4, 5, 0, 2, 3).reshape(x.shape[1] * taps**2, -1)


def matrix_forward(op: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution as a matrix product, in the layout of ``x``."""
    side = [length // STRIDES[op] for length in x.shape[2:]]
    columns = columns_of(x, weight.shape[2], STRIDES[op])
    y = weight.flatten(1) @ columns if bias is None else torch.addmm(bias[:, None], weight.flatten(1), columns)
    return y.view(-1, x.shape[0], *side).transpose(0, 1).contiguous(memory_format=layouts.memory_format(x))


def matrix_backward(
    op: str, grad_y: Tensor, x: Tensor, weight: Tensor, want_x: bool, want_weight: bool
) -> tuple[Tensor, Tensor]:
    """Its gradients as matrix products."""
    taps, stride = weight.shape[2], STRIDES[op]
    results = grad_y.transpose(0, 1).flatten(1)
    grad_x, grad_weight = x.new_empty(0), weight.new_empty(0)
    if want_x:
        columns = (weight.flatten(1).t() @ results).view(-1, x.shape[0], grad_y[0, 0].numel()).transpose(0, 1)
        grad_x = F.fold(columns, (x.shape[2], x.shape[3]), taps, padding=1, stride=stride)
        grad_x = laid_out(grad_x, layouts.memory_format(x))
    if want_weight:
        grad_weight = (results @ columns_of(x, taps, stride).t()).view(weight.shape)
    return grad_x, grad_weight


def own_backward(
    op: str, grad_y: Tensor, x: Tensor, weight: Tensor, want_x: bool, want_weight: bool
) -> tuple[Tensor, Tensor]:
    """Its gradients by PyTorch's own kernel."""
    geometry = ([STRIDES[op]] * 2, [1, 1], [1, 1], False, [0, 0], 1)
    wants = [want_x, want_weight, False]
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(grad_y, x, weight, None, *geometry, wants)
    grad_x = grad_x.contiguous(memory_format=layouts.memory_format(x)) if want_x else x.new_empty(0)
    return grad_x, grad_weight.contiguous() if want_weight else weight.new_empty(0)


def forward(op: str, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``op`` of ``STRIDES``, by the fastest kernel, in the layout of ``x``."""
    stride = STRIDES[op]
    pixels = x.numel() // x.shape[1] // stride**2
    if runs_forward(op, pixels, x.shape[1]):
        return native_forward(op, x, weight, bias)
    if runs_as_matrix(op, pixels, weight):
        return matrix_forward(op, x, weight, bias)
    return F.conv2d(x, weight, bias, stride=stride, padding=1)


def backward(
    op: str, grad_y: Tensor, x: Tensor, weight: Tensor, want_x: bool, want_weight: bool
) -> tuple[Tensor, Tensor]:
    """Its gradients of x and of the weight (size 0 if not wanted), each by the fastest kernel."""
    pixels = grad_y.numel() // grad_y.shape[1]
    native_x = want_x and runs_input(op, pixels)
    native_weight = want_weight and runs_weight(op, pixels, x.shape[1], weight.shape[0])
    grad_x, grad_weight = x.new_empty(0), weight.new_empty(0)
    if native_x or native_weight:
        grad_x, grad_weight = native_backward(op, grad_y, x, weight, native_x, native_weight)
    other_x, other_weight = want_x and not native_x, want_weight and not native_weight
    if other_x or other_weight:
        run = matrix_backward if runs_as_matrix(op, pixels, weight) else own_backward
        found = run(op, grad_y, x, weight, other_x, other_weight)
        grad_x, grad_weight = found[0] if other_x else grad_x, found[1] if other_weight else grad_weight
    return grad_x, grad_weight
