"""Convolutions on CPUs in float32, each direction by the fastest of three: the native library, whose forms take fewer
products but have weights to transform; PyTorch's own kernel; and, where the weight is far larger than the maps, a
matrix product, which reads a weight as it lies, while PyTorch's kernel lays it out anew at every call.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from dmgan_fast import layouts, native
from dmgan_fast.aten.layout import laid_out

STRIDES = {"conv3x3": 1, "conv4x4_stride2": 2}


class Crossover(NamedTuple):
    """From where on the native kernel of an op is faster than PyTorch's own. Pixels are those of the smaller map in all
    of a batch. Few channels are as many as an image has, or one more."""

    pixels: int  # of results and of gradients of x
    weight: tuple[tuple[int, int, int], ...]  # inputs, outputs and pixels of the gradient of a weight: any of these
    few_inputs: int = 2**62  # pixels from which a few inputs' results are bound by memory, where PyTorch's is better
    few_outputs: int | None = None  # pixels of the gradient of a weight of few outputs, if that is summed directly

    def runs_forward(self, pixels: int, inputs: int) -> bool:
        """Whether the native kernel makes a result."""
        return self.runs_input(pixels) and (inputs > FEW or pixels < self.few_inputs)

    def runs_input(self, pixels: int) -> bool:
        """Whether it makes the gradient of x."""
        return pixels >= self.pixels

    def runs_weight(self, pixels: int, inputs: int, outputs: int) -> bool:
        """Whether it makes the gradient of the weight."""
        if self.few_outputs is not None and outputs <= FEW:
            return pixels >= self.few_outputs
        return any(inputs >= i and outputs >= o and pixels >= p for i, o, p in self.weight)


FEW = 4
_AVX512 = {
    "conv3x3": Crossover(1024, ((16, 0, 16384), (32, 0, 1024)), few_inputs=16384, few_outputs=4096),
    "conv4x4_stride2": Crossover(1024, ((16, 0, 1024),), few_inputs=16384),
    "upsample_conv3x3": Crossover(0, ((0, 16, 0),)),
}
# With AVX2, PyTorch's gradients of weights of few channels are faster than most of the native ones (docs/backends.md).
_AVX2 = {
    "conv3x3": _AVX512["conv3x3"]._replace(few_outputs=1024),
    "conv4x4_stride2": _AVX512["conv4x4_stride2"]._replace(weight=((16, FEW + 1, 1024),)),
    "upsample_conv3x3": _AVX512["upsample_conv3x3"]._replace(weight=((FEW + 1, 16, 0),)),
}
CROSSOVERS = {"avx512": _AVX512, "avx2": _AVX2}  # by CPU level: ``python -m benchmarks.crossover --level LEVEL``
MATRIX_WEIGHTS = 2**23  # elements of a weight, from which what the native kernel leaves is a matrix product,
MATRIX_PIXELS = {"conv3x3": range(17, 1025), "conv4x4_stride2": range(1, 1025)}  # with so many pixels


def rule_of(op: str, level: str) -> Crossover:
    """At a CPU level. Levels of narrower vectors take that of AVX2, but for gradients of weights: those of few channels
    are faster than PyTorch's again."""
    rule = CROSSOVERS.get(level, CROSSOVERS["avx2"])[op]
    return rule if level in CROSSOVERS else rule._replace(weight=_AVX512[op].weight)


@cache
def crossover(op: str) -> Crossover:
    """At the CPU level in use."""
    return rule_of(op, native.cpu_level())


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
    if crossover(op).runs_forward(pixels, x.shape[1]):
        return native_forward(op, x, weight, bias)
    if runs_as_matrix(op, pixels, weight):
        return matrix_forward(op, x, weight, bias)
    return F.conv2d(x, weight, bias, stride=stride, padding=1)


def backward(
    op: str, grad_y: Tensor, x: Tensor, weight: Tensor, want_x: bool, want_weight: bool
) -> tuple[Tensor, Tensor]:
    """Its gradients of x and of the weight (size 0 if not wanted), each by the fastest kernel."""
    pixels = grad_y.numel() // grad_y.shape[1]
    rule = crossover(op)
    native_x = want_x and rule.runs_input(pixels)
    native_weight = want_weight and rule.runs_weight(pixels, x.shape[1], weight.shape[0])
    grad_x, grad_weight = x.new_empty(0), weight.new_empty(0)
    if native_x or native_weight:
        grad_x, grad_weight = native_backward(op, grad_y, x, weight, native_x, native_weight)
    other_x, other_weight = want_x and not native_x, want_weight and not native_weight
    if other_x or other_weight:
        run = matrix_backward if runs_as_matrix(op, pixels, weight) else own_backward
        found = run(op, grad_y, x, weight, other_x, other_weight)
        grad_x, grad_weight = found[0] if other_x else grad_x, found[1] if other_weight else grad_weight
    return grad_x, grad_weight
