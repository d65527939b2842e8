"""Nearest x2, then a 3x3 convolution: y(2i + a, 2j + b) = sum over u, v of W_ab(u, v) x(i + a + u - 1, j + b + v - 1).

The upsampled tensor never exists. Output pixels of a parity (a, b) see 2x2 input pixels, under taps W_ab that add up
those of the 3x3 kernel: 4/9 of the multiplications, all of them in matrix products over the channels.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dmgan_fast.kernels._common import convolution_precision
from dmgan_fast.layouts import empty_map, is_channels_last

# Axes: o and i output and input channels, p pixels of x over all samples; BO, BI, BP tiles of them.
TILE = 64  # of both axes of a program's result: two of them are 32 registers for each of 256 threads
GRAD_WEIGHT_TILE = (64, 32)  # BO, BI, four of them: tensor cores like 64 rows
GRAD_WEIGHT_EXACT_TILE = (32, 32)  # larger ones spill on some GPUs
WARPS = 8
DEPTH_BYTES = 64  # of the axis that a step of the product sums over; Triton 3.6 wants 16 floats at least
TAPS = 16  # folded taps (a, b, u, v), numbered ((2a + b) 2 + u) 2 + v
KERNEL = tl.constexpr(9)  # taps of the 3x3 kernel
FOLD_BLOCK = 128  # weights that a program folds or unfolds
SPLIT_PIXELS = 2048  # of one partial sum of the weight's gradient, at least
MAX_SPLITS = 32  # partial sums: enough programs for a large GPU at 64 channels, and a small work buffer


# -------------------------------------------------------------------------------------------------------- folded taps


@triton.jit
def _covers(parity, side, k):
    """Does tap k of three fall on input pixel ``side`` of two? It reads row 2i + parity + k - 1 of the upsampled."""
    return (parity + k + 1) // 2 == parity + side


@triton.jit
def _sums(tap, k):
    """1 where folded ``tap`` adds up tap k of the 3x3 kernel, else 0: ``[taps, k]``, or transposed."""
    on_tap = _covers(tap // 8, tap // 2 % 2, k // 3) & _covers(tap // 4 % 2, tap % 2, k % 3) & (k < KERNEL)
    return tl.where(on_tap, 1.0, 0.0)


@triton.jit
def _fold_kernel(weight, folded, weights, TAPS: tl.constexpr, BLOCK: tl.constexpr):
    """``folded [16, O, I]`` from ``weight [O, I, 3, 3]``."""
    w = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tap = tl.arange(0, TAPS)  # of either kernel: there are fewer in 3x3
    live = (w < weights)[None, :]  # [1, BLOCK]
    kernel = tl.load(weight + w[None, :] * KERNEL + tap[:, None], live & (tap < KERNEL)[:, None], other=0.0)
    total = tl.dot(_sums(tap[:, None], tap[None, :]), kernel.to(tl.float32), input_precision="ieee")  # [TAPS, BLOCK]
    tl.store(folded + tap[:, None] * weights + w[None, :], total.to(folded.dtype.element_ty), live)


@triton.jit
def _unfold_kernel(parts, grad_weight, weights, splits, TAPS: tl.constexpr, BLOCK: tl.constexpr):
    """``grad_weight [O, I, 3, 3]`` from partial sums ``parts [splits, 16, O, I]``, in order."""
    w = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tap = tl.arange(0, TAPS)
    live = (w < weights)[None, :]  # [1, BLOCK]
    total = tl.zeros([TAPS, BLOCK], tl.float32)
    for _ in range(splits):
        total += tl.load(parts + tap[:, None] * weights + w[None, :], live, other=0.0)  # [TAPS, BLOCK]
        parts += TAPS * weights
    kernel = tl.dot(_sums(tap[None, :], tap[:, None]), total, input_precision="ieee")  # [TAPS, BLOCK]
    pointer = grad_weight + w[None, :] * KERNEL + tap[:, None]  # [TAPS, BLOCK]
    tl.store(pointer, kernel.to(grad_weight.dtype.element_ty), live & (tap < KERNEL)[:, None])


@triton.jit
def _folded_tap(folded, a, b, u, v, o, i, out_channels, in_channels):
    """W_ab(u, v), for the output and input channels of ``o`` and ``i``: a column and a row, or a row and a column."""
    tap = ((a * 2 + b) * 2 + u) * 2 + v
    mask = (o < out_channels) & (i < in_channels)
    return tl.load(folded + (tap * out_channels + o) * in_channels + i, mask, other=0.0)


# -------------------------------------------------------------------------------------------------------- feature maps


@triton.jit
def _locate(p, height, width):
    """Sample, row and column of pixel p."""
    return p // (height * width), p // width % height, p % width


@triton.jit
def _at(features, c, sample, row, column, live, channels, height, width, CHANNELS_LAST: tl.constexpr):
    """Pointers ``[c, pixel]`` into a dense ``[B, channels, height, width]``, and which lie inside."""
    mask = (c < channels)[:, None] & (live & (row >= 0) & (row < height) & (column >= 0) & (column < width))[None, :]
    origin = features + sample.to(tl.int64) * channels * height * width  # [BP]
    pixel = row * width + column  # [BP]
    if CHANNELS_LAST:
        return (origin + pixel.to(tl.int64) * channels)[None, :] + c[:, None], mask
    else:
        return (origin + pixel)[None, :] + c.to(tl.int64)[:, None] * (height * width), mask


@triton.jit
def _load_at(features, c, sample, row, column, live, channels, height, width, CHANNELS_LAST: tl.constexpr):
    pointer, mask = _at(features, c, sample, row, column, live, channels, height, width, CHANNELS_LAST)
    return tl.load(pointer, mask, other=0.0)


@triton.jit
def _load_pairs(
    y, o, first, end, down, right, channels, height, width, BO: tl.constexpr, BP: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    """Row 2i + down of ``y`` at columns 2j + right and 2j + right + 1, for pixels (i, j) of x from ``first`` on: tiles
    [BO, BP]. In NCHW they are read as one: columns two apart would waste half of what memory sends.
    """
    if CHANNELS_LAST:
        p = first + tl.arange(0, BP)
        sample, row, column = _locate(p, height, width)  # [BP]
        row, column = 2 * row + down, 2 * column + right
        height, width = 2 * height, 2 * width
        first_tile = _load_at(y, o, sample, row, column, p < end, channels, height, width, CHANNELS_LAST)  # [BO, BP]
        second_tile = _load_at(y, o, sample, row, column + 1, p < end, channels, height, width, CHANNELS_LAST)
    else:
        q = tl.arange(0, 2 * BP)
        p = first + q // 2
        sample, row, column = _locate(p, height, width)  # [2 BP]
        row, column = 2 * row + down, 2 * column + right + q % 2
        both = _load_at(y, o, sample, row, column, p < end, channels, 2 * height, 2 * width, CHANNELS_LAST)
        first_tile, second_tile = tl.split(tl.reshape(both, [BO, BP, 2]))
    return first_tile, second_tile


# ------------------------------------------------------------------------------------------------------------- kernels


@triton.jit
def _forward_kernel(
    x, folded, y, out_channels, in_channels, pixels, height, width,
    BO: tl.constexpr, BI: tl.constexpr, BP: tl.constexpr, CHANNELS_LAST: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Output rows of one parity a: both column parities at once, so that they are stored side by side."""
    o = tl.program_id(1) * BO + tl.arange(0, BO)
    a = tl.program_id(2)
    first_pixel = tl.program_id(0) * BP
    p = first_pixel + tl.arange(0, BP)
    sample, row, column = _locate(p, height, width)  # [BP]
    even = tl.zeros([BO, BP], tl.float32)
    odd = tl.zeros([BO, BP], tl.float32)
    for step in range(2 * tl.cdiv(in_channels, BI)):
        u = step % 2
        i = step // 2 * BI + tl.arange(0, BI)
        for shift in tl.static_range(3):  # columns j - 1, j, j + 1: the even parity sees the first two
            tile = _load_at(
                x, i, sample, row + a + u - 1, column + shift - 1, p < pixels, in_channels, height, width,
                CHANNELS_LAST,
            )  # fmt: skip
            if shift < 2:
                tap = _folded_tap(folded, a, 0, u, shift, o[:, None], i[None, :], out_channels, in_channels)  # [BO, BI]
                even = tl.dot(tap, tile, even, input_precision=PRECISION)  # [BO, BP]
            if shift > 0:
                tap = _folded_tap(folded, a, 1, u, shift - 1, o[:, None], i[None, :], out_channels, in_channels)
                odd = tl.dot(tap, tile, odd, input_precision=PRECISION)  # [BO, BP]
    q = tl.arange(0, 2 * BP)
    p = first_pixel + q // 2
    sample, row, column = _locate(p, height, width)  # [2 BP]
    pointer, mask = _at(
        y, o, sample, 2 * row + a, 2 * column + q % 2, p < pixels, out_channels, 2 * height, 2 * width, CHANNELS_LAST
    )  # fmt: skip
    tl.store(pointer, tl.interleave(even, odd).to(y.dtype.element_ty), mask)


@triton.jit
def _grad_x_kernel(
    grad_y, folded, grad_x, out_channels, in_channels, pixels, height, width,
    TAPS: tl.constexpr, BI: tl.constexpr, BO: tl.constexpr, BP: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Pixel (i, j) of x is seen by rows 2i - 1 to 2i + 2 and columns 2j - 1 to 2j + 2 of y."""
    i = tl.program_id(1) * BI + tl.arange(0, BI)
    first = tl.program_id(0) * BP
    total = tl.zeros([BI, BP], tl.float32)
    for step in range(TAPS // 2 * tl.cdiv(out_channels, BO)):
        down, side = step // 2 % 4, step % 2
        o = step // (TAPS // 2) * BO + tl.arange(0, BO)
        odd, even = _load_pairs(
            grad_y, o, first, pixels, down - 1, 2 * side - 1, out_channels, height, width, BO, BP, CHANNELS_LAST
        )
        tap = _folded_tap(
            folded, 1 - down % 2, 1, 1 - down // 2, 1 - side, o[None, :], i[:, None], out_channels, in_channels
        )
        total = tl.dot(tap, odd, total, input_precision=PRECISION)  # [BI, BP]
        tap = _folded_tap(
            folded, 1 - down % 2, 0, 1 - down // 2, 1 - side, o[None, :], i[:, None], out_channels, in_channels
        )
        total = tl.dot(tap, even, total, input_precision=PRECISION)  # [BI, BP]
    p = first + tl.arange(0, BP)
    sample, row, column = _locate(p, height, width)  # [BP]
    pointer, mask = _at(grad_x, i, sample, row, column, p < pixels, in_channels, height, width, CHANNELS_LAST)
    tl.store(pointer, total.to(grad_x.dtype.element_ty), mask)


@triton.jit
def _grad_weight_kernel(
    grad_y, x, parts, out_channels, in_channels, pixels, split_pixels, height, width,
    TAPS: tl.constexpr, BO: tl.constexpr, BI: tl.constexpr, BP: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """``parts [splits, 16, O, I]``: gradients of the four taps (a, ., u, .) from one split of the pixels."""
    blocks = tl.cdiv(in_channels, BI)
    o = tl.program_id(0) // blocks * BO + tl.arange(0, BO)
    i = tl.program_id(0) % blocks * BI + tl.arange(0, BI)
    a, u = tl.program_id(1) // 2, tl.program_id(1) % 2
    split = tl.program_id(2)
    end = tl.minimum((split + 1) * split_pixels, pixels)
    even_0 = tl.zeros([BO, BI], tl.float32)
    even_1 = tl.zeros([BO, BI], tl.float32)
    odd_0 = tl.zeros([BO, BI], tl.float32)
    odd_1 = tl.zeros([BO, BI], tl.float32)
    for first in range(split * split_pixels, end, BP):
        p = first + tl.arange(0, BP)
        live = p < end
        sample, row, column = _locate(p, height, width)  # [BP]
        even, odd = _load_pairs(grad_y, o, first, end, a, 0, out_channels, height, width, BO, BP, CHANNELS_LAST)
        row += a + u - 1
        left = _load_at(x, i, sample, row, column - 1, live, in_channels, height, width, CHANNELS_LAST)  # [BI, BP]
        middle = _load_at(x, i, sample, row, column, live, in_channels, height, width, CHANNELS_LAST)  # [BI, BP]
        right = _load_at(x, i, sample, row, column + 1, live, in_channels, height, width, CHANNELS_LAST)  # [BI, BP]
        even_0 = tl.dot(even, tl.trans(left), even_0, input_precision=PRECISION)  # [BO, BI]
        even_1 = tl.dot(even, tl.trans(middle), even_1, input_precision=PRECISION)  # [BO, BI]
        odd_0 = tl.dot(odd, tl.trans(middle), odd_0, input_precision=PRECISION)  # [BO, BI]
        odd_1 = tl.dot(odd, tl.trans(right), odd_1, input_precision=PRECISION)  # [BO, BI]
    weights = out_channels * in_channels
    part = parts + (split.to(tl.int64) * TAPS + (a * 4 + u) * 2) * weights
    part += o[:, None] * in_channels + i[None, :]  # [BO, BI]
    mask = (o < out_channels)[:, None] & (i < in_channels)[None, :]  # [BO, BI]
    tl.store(part, even_0, mask)
    tl.store(part + weights, even_1, mask)
    tl.store(part + 4 * weights, odd_0, mask)
    tl.store(part + 5 * weights, odd_1, mask)


# ------------------------------------------------------------------------------------------------------------ launches


def _is_exact(x: Tensor) -> bool:
    return x.dtype == torch.float32 and convolution_precision() == "ieee"


def _options(x: Tensor) -> tuple[int, dict[str, int | bool | str]]:
    """Depth of a product's steps, and what all three kernels are launched with."""
    options = {"CHANNELS_LAST": is_channels_last(x), "PRECISION": convolution_precision(), "num_warps": WARPS}
    return DEPTH_BYTES // x.element_size(), options


def _fold(weight: Tensor) -> Tensor:
    out_channels, in_channels = weight.shape[:2]
    weights = out_channels * in_channels
    folded = torch.empty((TAPS, out_channels, in_channels), dtype=weight.dtype, device=weight.device)
    _fold_kernel[(triton.cdiv(weights, FOLD_BLOCK),)](weight, folded, weights, TAPS=TAPS, BLOCK=FOLD_BLOCK)
    return folded


def upsample_conv3x3_forward(x: Tensor, weight: Tensor) -> Tensor:
    """``x [B, I, H, W]``, ``weight [O, I, 3, 3]`` → ``[B, O, 2H, 2W]``."""
    samples, in_channels, height, width = x.shape
    out_channels, pixels = len(weight), samples * height * width
    depth, options = _options(x)
    y = empty_map(x, out_channels, 2 * height, 2 * width)
    _forward_kernel[triton.cdiv(pixels, TILE), triton.cdiv(out_channels, TILE), 2](
        x, _fold(weight), y, out_channels, in_channels, pixels, height, width, BO=TILE, BI=depth, BP=TILE, **options
    )  # fmt: skip
    return y


def upsample_conv3x3_backward(
    grad_y: Tensor, x: Tensor, weight: Tensor, want_x: bool, want_weight: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the weight, each if wanted; ``grad_y`` in x's layout."""
    samples, in_channels, height, width = x.shape
    out_channels, pixels = len(weight), samples * height * width
    depth, options = _options(x)
    grad_x, grad_weight = x.new_empty(0), weight.new_empty(0)
    if want_x:
        grad_x = torch.empty_like(x)
        _grad_x_kernel[triton.cdiv(pixels, TILE), triton.cdiv(in_channels, TILE)](
            grad_y, _fold(weight), grad_x, out_channels, in_channels, pixels, height, width, TAPS=TAPS, BI=TILE,
            BO=depth, BP=TILE, **options,
        )  # fmt: skip
    if want_weight:
        grad_weight = torch.empty_like(weight)
        split_pixels = max(SPLIT_PIXELS, triton.cdiv(triton.cdiv(pixels, MAX_SPLITS), depth) * depth)
        splits = triton.cdiv(pixels, split_pixels)
        parts = torch.empty((splits, TAPS, out_channels, in_channels), dtype=torch.float32, device=x.device)
        BO, BI = GRAD_WEIGHT_EXACT_TILE if _is_exact(x) else GRAD_WEIGHT_TILE
        blocks = triton.cdiv(out_channels, BO) * triton.cdiv(in_channels, BI)
        _grad_weight_kernel[blocks, TAPS // 4, splits](
            grad_y, x, parts, out_channels, in_channels, pixels, split_pixels, height, width, TAPS=TAPS, BO=BO, BI=BI,
            BP=depth, **options,
        )  # fmt: skip
        weights = out_channels * in_channels
        _unfold_kernel[(triton.cdiv(weights, FOLD_BLOCK),)](
            parts, grad_weight, weights, splits, TAPS=TAPS, BLOCK=FOLD_BLOCK
        )  # fmt: skip
    return grad_x, grad_weight
