"""Batch norm, then GLU or a skip: z = (x - mean) * rstd * weight + bias, y = z_a * sigmoid(z_b) or y = z + skip.

Forward and backward read x once per pass and save nothing but mean and rstd: z is recomputed. Every sum over pixels is
two-level, fixed blocks first, then the blocks in order, so results repeat bit by bit and no atomics are needed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from dmgan_fast.kernels._common import program_in_2d, program_in_3d, relu
from dmgan_fast.layouts import empty_map, is_channels_last

TILE = 1024  # elements in registers at a time: 8 for each of 128 threads, one 16-byte load in half precision
ROW_BYTES = 128  # a cache line: what a tile reads at least along the contiguous axis
TILES_PER_BLOCK = 8  # tiles a program walks: its partial sums are then at most 1/32 of the bytes that it read
REDUCE_ROWS = 64  # blocks that one step of the second level takes
REDUCE_COLUMNS = 16  # few columns a program, since there are no more than channels


# ------------------------------------------------------------------------------------------- addresses and per-channel


@triton.jit
def _tile(ptr, sample, channel, pixel, channels, pixels, CHANNELS_LAST: tl.constexpr):
    """Pointers ``[channel, pixel]`` into one sample of a dense ``[B, channels, pixels]``, in either layout."""
    ptr += sample * channels * pixels
    if CHANNELS_LAST:
        return (ptr + pixel.to(tl.int64) * channels)[None, :] + channel[:, None]
    else:
        return (ptr + channel.to(tl.int64) * pixels)[:, None] + pixel[None, :]


@triton.jit
def _per_channel(ptr, channel, mask, default: tl.constexpr):
    """``ptr[channel]`` as a column, or ``default`` where the tensor is None."""
    column = tl.full(channel.shape, default, tl.float32) if ptr is None else tl.load(ptr + channel, mask, other=0.0)
    return column[:, None]


# --------------------------------------------------------------------------------------------------------- statistics


@triton.jit
def _moments_kernel(
    x, mean_parts, m2_parts, channels, pixels,
    BC: tl.constexpr, BP: tl.constexpr, TILES: tl.constexpr, CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    """Mean and sum of squared deviations of each channel over one block of one sample's pixels.

    The sums are of x less the first tile's mean. That tile is a share w of the block, so by the law of total variance
    the square of the sum is at most (1 - w) / w times the result: however large the mean, three bits cancel at most.
    """
    blocks = tl.cdiv(pixels, BP * TILES)  # of a sample
    block, channel_block, sample = program_in_3d(blocks, tl.cdiv(channels, BC))
    channel = channel_block * BC + tl.arange(0, BC)
    start = block * (BP * TILES)
    end = tl.minimum(start + BP * TILES, pixels)
    channel_mask = channel < channels
    pixel = start + tl.arange(0, BP)
    mask = channel_mask[:, None] & (pixel < end)[None, :]  # [BC, BP]
    values = tl.load(_tile(x, sample, channel, pixel, channels, pixels, CHANNELS_LAST), mask, other=0.0)  # [BC, BP]
    pivot = tl.sum(values.to(tl.float32), 1) / tl.minimum(end - start, BP)  # [BC]
    shifts = tl.zeros([BC, BP], tl.float32)
    squares = tl.zeros([BC, BP], tl.float32)
    for first in range(start, end, BP):
        pixel = first + tl.arange(0, BP)
        mask = channel_mask[:, None] & (pixel < end)[None, :]  # [BC, BP]
        values = tl.load(_tile(x, sample, channel, pixel, channels, pixels, CHANNELS_LAST), mask, other=0.0)  # [BC, BP]
        shift = tl.where(mask, values.to(tl.float32) - pivot[:, None], 0.0)  # [BC, BP]
        shifts += shift
        squares += shift * shift
    shift_sum = tl.sum(shifts, 1)  # [BC]
    shift_mean = shift_sum / (end - start)  # [BC]
    part = (sample * blocks + block) * channels + channel  # [BC]
    tl.store(mean_parts + part, pivot + shift_mean, channel_mask)
    tl.store(m2_parts + part, tl.sum(squares, 1) - shift_sum * shift_mean, channel_mask)


@triton.jit
def _merge_blocks_kernel(
    mean_parts, m2_parts, mean_out, var_out, channels, pixels, blocks, blocks_per_sample,
    BLOCK_PIXELS: tl.constexpr, BR: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Each channel's mean and biased variance from its blocks: the mean first, then deviations from it."""
    channel = tl.program_id(0) * BC + tl.arange(0, BC)
    channel_mask = channel < channels
    count = tl.cast(blocks // blocks_per_sample, tl.float32) * pixels
    pivot = tl.load(mean_parts + channel, channel_mask, other=0.0)  # [BC]
    shifts = tl.zeros([BR, BC], tl.float32)
    for first in range(0, blocks, BR):
        block = first + tl.arange(0, BR)
        mask = (block < blocks)[:, None] & channel_mask[None, :]  # [BR, BC]
        size = tl.minimum(pixels - block % blocks_per_sample * BLOCK_PIXELS, BLOCK_PIXELS)[:, None]  # [BR, 1]
        offset = block.to(tl.int64)[:, None] * channels + channel[None, :]  # [BR, BC]
        means = tl.load(mean_parts + offset, mask, other=0.0)  # [BR, BC]
        shifts += tl.where(mask, (means - pivot[None, :]) * size, 0.0)
    mean = pivot + tl.sum(shifts, 0) / count  # [BC]
    m2 = tl.zeros([BR, BC], tl.float32)
    for first in range(0, blocks, BR):
        block = first + tl.arange(0, BR)
        mask = (block < blocks)[:, None] & channel_mask[None, :]  # [BR, BC]
        size = tl.minimum(pixels - block % blocks_per_sample * BLOCK_PIXELS, BLOCK_PIXELS)[:, None]  # [BR, 1]
        offset = block.to(tl.int64)[:, None] * channels + channel[None, :]  # [BR, BC]
        deviation = tl.load(mean_parts + offset, mask, other=0.0) - mean[None, :]  # [BR, BC]
        m2 += tl.where(mask, tl.load(m2_parts + offset, mask, other=0.0) + deviation * deviation * size, 0.0)
    tl.store(mean_out + channel, mean, channel_mask)
    tl.store(var_out + channel, relu(tl.sum(m2, 0) / count), channel_mask)


@triton.jit
def _add_blocks_kernel(parts, out, blocks, columns, scale, BR: tl.constexpr, BC: tl.constexpr):
    """``out [G, columns]`` = scale * sum of ``parts [G, blocks, columns]`` over the blocks."""
    column_block, group = program_in_2d(tl.cdiv(columns, BC))
    column = column_block * BC + tl.arange(0, BC)
    parts += group * blocks * columns
    total = tl.zeros([BR, BC], tl.float32)
    for first in range(0, blocks, BR):
        block = first + tl.arange(0, BR)
        mask = (block < blocks)[:, None] & (column < columns)[None, :]  # [BR, BC]
        total += tl.load(parts + block.to(tl.int64)[:, None] * columns + column[None, :], mask, other=0.0)
    tl.store(out + group * columns + column, tl.sum(total, 0) * scale, column < columns)


# ------------------------------------------------------------------------------------------------------------ forward


@triton.jit
def _forward_kernel(
    x, weight, bias, skip, mean, var, eps, y, rstd_out, y_parts, channels, y_channels, skip_channels, pixels,
    BC: tl.constexpr, BP: tl.constexpr, TILES: tl.constexpr, CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    """y of one block of pixels; with ``y_parts`` its sum too. Channel c of x is gated by channel c + y_channels."""
    blocks = tl.cdiv(pixels, BP * TILES)  # of a sample
    block, channel_block, sample = program_in_3d(blocks, tl.cdiv(y_channels, BC))
    channel = channel_block * BC + tl.arange(0, BC)
    start = block * (BP * TILES)
    channel_mask = channel < y_channels
    first_program = (block == 0) & (sample == 0)
    mean_a = tl.load(mean + channel, channel_mask, other=0.0)  # [BC]
    rstd_a = 1.0 / tl.sqrt_rn(tl.load(var + channel, channel_mask, other=1.0) + eps)  # [BC]
    tl.store(rstd_out + channel, rstd_a, channel_mask & first_program)
    scale_a = rstd_a[:, None] * _per_channel(weight, channel, channel_mask, 1.0)  # [BC, 1]
    bias_a = _per_channel(bias, channel, channel_mask, 0.0)  # [BC, 1]
    if skip is None:
        gate_channel = channel + y_channels
        mean_b = tl.load(mean + gate_channel, channel_mask, other=0.0)  # [BC]
        rstd_b = 1.0 / tl.sqrt_rn(tl.load(var + gate_channel, channel_mask, other=1.0) + eps)  # [BC]
        tl.store(rstd_out + gate_channel, rstd_b, channel_mask & first_program)
        scale_b = rstd_b[:, None] * _per_channel(weight, gate_channel, channel_mask, 1.0)  # [BC, 1]
        bias_b = _per_channel(bias, gate_channel, channel_mask, 0.0)  # [BC, 1]
    total = tl.zeros([BC, BP], tl.float32)
    for first in range(start, tl.minimum(start + BP * TILES, pixels), BP):
        pixel = first + tl.arange(0, BP)
        mask = channel_mask[:, None] & (pixel < pixels)[None, :]  # [BC, BP]
        x_a = tl.load(_tile(x, sample, channel, pixel, channels, pixels, CHANNELS_LAST), mask, other=0.0)  # [BC, BP]
        z_a = (x_a.to(tl.float32) - mean_a[:, None]) * scale_a + bias_a  # [BC, BP]
        if skip is None:
            x_b = tl.load(_tile(x, sample, gate_channel, pixel, channels, pixels, CHANNELS_LAST), mask, other=0.0)
            z_b = (x_b.to(tl.float32) - mean_b[:, None]) * scale_b + bias_b  # [BC, BP]
            result = z_a * tl.sigmoid(z_b)  # [BC, BP]
        else:
            skipped = _tile(skip, sample, channel % skip_channels, pixel, skip_channels, pixels, CHANNELS_LAST)
            result = z_a + tl.load(skipped, mask, other=0.0).to(tl.float32)  # [BC, BP]
        target = _tile(y, sample, channel, pixel, y_channels, pixels, CHANNELS_LAST)  # [BC, BP]
        tl.store(target, result.to(y.dtype.element_ty), mask)
        if y_parts is not None:
            total += tl.where(mask, result, 0.0)
    if y_parts is not None:
        tl.store(y_parts + (sample * blocks + block) * y_channels + channel, tl.sum(total, 1), channel_mask)


# ----------------------------------------------------------------------------------------------------------- backward


@triton.jit
def _normalised(
    x, weight, bias, mean, rstd, sample, channel, pixel, channel_mask, mask, channels, pixels,
    CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    """x-hat and z of a tile."""
    values = tl.load(_tile(x, sample, channel, pixel, channels, pixels, CHANNELS_LAST), mask, other=0.0)  # [BC, BP]
    mean_c = tl.load(mean + channel, channel_mask, other=0.0)[:, None]  # [BC, 1]
    rstd_c = tl.load(rstd + channel, channel_mask, other=0.0)[:, None]  # [BC, 1]
    xhat = (values.to(tl.float32) - mean_c) * rstd_c  # [BC, BP]
    z = xhat * _per_channel(weight, channel, channel_mask, 1.0) + _per_channel(bias, channel, channel_mask, 0.0)
    return xhat, z


@triton.jit
def _grad_y_tile(grad_y, grad_mean, sample, channel, pixel, channel_mask, mask, y_channels, pixels,
                 CHANNELS_LAST: tl.constexpr):  # fmt: skip
    """Gradient of y, that of y's spatial mean included; zero outside."""
    dy = tl.load(_tile(grad_y, sample, channel, pixel, y_channels, pixels, CHANNELS_LAST), mask, other=0.0)  # [BC, BP]
    dy = dy.to(tl.float32)
    if grad_mean is not None:
        of_mean = tl.load(grad_mean + sample * y_channels + channel, channel_mask, other=0.0) / pixels  # [BC]
        dy = tl.where(mask, dy + of_mean[:, None], 0.0)
    return dy


@triton.jit
def _grad_z_tile(
    grad_y, grad_mean, x, weight, bias, mean, rstd, sample, channel, pixel, channel_mask, mask, channels, y_channels,
    pixels, GLU: tl.constexpr, CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    """x-hat and the gradient of z, of a channel and of its gate; without a gate the two are one."""
    dy = _grad_y_tile(grad_y, grad_mean, sample, channel, pixel, channel_mask, mask, y_channels, pixels, CHANNELS_LAST)
    xhat_a, z_a = _normalised(
        x, weight, bias, mean, rstd, sample, channel, pixel, channel_mask, mask, channels, pixels, CHANNELS_LAST
    )
    if GLU:
        xhat_b, z_b = _normalised(
            x, weight, bias, mean, rstd, sample, channel + y_channels, pixel, channel_mask, mask, channels, pixels,
            CHANNELS_LAST,
        )  # fmt: skip
        gate = tl.sigmoid(z_b)  # [BC, BP]
        dz_a = dy * gate  # [BC, BP]
        dz_b = dz_a * z_a * (1 - gate)  # [BC, BP]
    else:
        xhat_b, dz_a, dz_b = xhat_a, dy, dy
    return xhat_a, dz_a, xhat_b, dz_b


@triton.jit
def _sums_kernel(
    grad_y, grad_mean, x, weight, bias, mean, rstd, parts, channels, y_channels, pixels,
    GLU: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr, TILES: tl.constexpr, CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    """``parts [blocks, 2, channels]``: sum dz and sum dz * x-hat over one block of pixels."""
    blocks = tl.cdiv(pixels, BP * TILES)  # of a sample
    block, channel_block, sample = program_in_3d(blocks, tl.cdiv(y_channels, BC))
    channel = channel_block * BC + tl.arange(0, BC)
    start = block * (BP * TILES)
    channel_mask = channel < y_channels
    dz_sum_a = tl.zeros([BC, BP], tl.float32)
    dot_sum_a = tl.zeros([BC, BP], tl.float32)
    dz_sum_b = tl.zeros([BC, BP], tl.float32)
    dot_sum_b = tl.zeros([BC, BP], tl.float32)
    for first in range(start, tl.minimum(start + BP * TILES, pixels), BP):
        pixel = first + tl.arange(0, BP)
        mask = channel_mask[:, None] & (pixel < pixels)[None, :]  # [BC, BP]
        xhat_a, dz_a, xhat_b, dz_b = _grad_z_tile(
            grad_y, grad_mean, x, weight, bias, mean, rstd, sample, channel, pixel, channel_mask, mask, channels,
            y_channels, pixels, GLU, CHANNELS_LAST,
        )  # fmt: skip
        dz_sum_a += dz_a
        dot_sum_a += dz_a * xhat_a
        if GLU:
            dz_sum_b += dz_b
            dot_sum_b += dz_b * xhat_b
    parts += (sample * blocks + block) * 2 * channels
    tl.store(parts + channel, tl.sum(dz_sum_a, 1), channel_mask)
    tl.store(parts + channels + channel, tl.sum(dot_sum_a, 1), channel_mask)
    if GLU:
        tl.store(parts + y_channels + channel, tl.sum(dz_sum_b, 1), channel_mask)
        tl.store(parts + channels + y_channels + channel, tl.sum(dot_sum_b, 1), channel_mask)


@triton.jit
def _through_statistics(
    dz, xhat, weight, rstd, sums, count, channel, channel_mask, channels, TRAINING: tl.constexpr
):  # fmt: skip
    """Gradient of x from that of z."""
    if TRAINING:
        dz_mean = tl.load(sums + channel, channel_mask, other=0.0)[:, None] / count  # [BC, 1]
        dot_mean = tl.load(sums + channels + channel, channel_mask, other=0.0)[:, None] / count  # [BC, 1]
        dz = dz - dz_mean - xhat * dot_mean  # [BC, BP]
    rstd_c = tl.load(rstd + channel, channel_mask, other=0.0)[:, None]  # [BC, 1]
    return dz * (rstd_c * _per_channel(weight, channel, channel_mask, 1.0))


@triton.jit
def _backward_kernel(
    grad_y, grad_mean, x, weight, bias, mean, rstd, sums, count, grad_x, channels, y_channels, pixels,
    GLU: tl.constexpr, TRAINING: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr, CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    """Gradient of x, one tile a program."""
    tile, channel_block, sample = program_in_3d(tl.cdiv(pixels, BP), tl.cdiv(y_channels, BC))
    channel = channel_block * BC + tl.arange(0, BC)
    pixel = tile * BP + tl.arange(0, BP)
    channel_mask = channel < y_channels
    mask = channel_mask[:, None] & (pixel < pixels)[None, :]  # [BC, BP]
    xhat_a, dz_a, xhat_b, dz_b = _grad_z_tile(
        grad_y, grad_mean, x, weight, bias, mean, rstd, sample, channel, pixel, channel_mask, mask, channels,
        y_channels, pixels, GLU, CHANNELS_LAST,
    )  # fmt: skip
    dx = _through_statistics(dz_a, xhat_a, weight, rstd, sums, count, channel, channel_mask, channels, TRAINING)
    target = _tile(grad_x, sample, channel, pixel, channels, pixels, CHANNELS_LAST)  # [BC, BP]
    tl.store(target, dx.to(grad_x.dtype.element_ty), mask)
    if GLU:
        gate_channel = channel + y_channels
        dx = _through_statistics(
            dz_b, xhat_b, weight, rstd, sums, count, gate_channel, channel_mask, channels, TRAINING
        )  # fmt: skip
        target = _tile(grad_x, sample, gate_channel, pixel, channels, pixels, CHANNELS_LAST)  # [BC, BP]
        tl.store(target, dx.to(grad_x.dtype.element_ty), mask)


# ------------------------------------------------------------------------------------------------------------ launches


class _Blocks(NamedTuple):
    """How ``channels`` channels of ``x`` are cut: tiles ``[BC, BP]``, contiguous axis first served."""

    samples: int
    channels: int
    pixels: int
    channels_last: bool
    BC: int
    BP: int

    @classmethod
    def of(cls, x: Tensor, channels: int) -> _Blocks:
        channels_last = is_channels_last(x)
        pixels = x.shape[2] * x.shape[3]
        line = ROW_BYTES // x.element_size()
        if channels_last:
            BC = min(line, triton.next_power_of_2(channels))
            BP = TILE // BC
        else:
            BP = max(line, min(TILE, triton.next_power_of_2(pixels)))
            BC = min(TILE // BP, triton.next_power_of_2(channels))
        return cls(len(x), channels, pixels, channels_last, BC, BP)

    @property
    def per_sample(self) -> int:
        return triton.cdiv(self.pixels, self.BP * TILES_PER_BLOCK)

    @property
    def total(self) -> int:
        return self.samples * self.per_sample

    @property
    def grid(self) -> tuple[int]:
        return (self.total * triton.cdiv(self.channels, self.BC),)

    @property
    def tile_grid(self) -> tuple[int]:
        return (self.samples * triton.cdiv(self.pixels, self.BP) * triton.cdiv(self.channels, self.BC),)

    @property
    def tile(self) -> dict[str, int | bool]:
        return {"BC": self.BC, "BP": self.BP, "CHANNELS_LAST": self.channels_last}


def _per_channel_like(x: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=x.device)


def _add_blocks(parts: Tensor, scale: float = 1.0) -> Tensor:
    """``[G, blocks, columns]`` → ``[G, columns]``."""
    groups, blocks, columns = parts.shape
    out = _per_channel_like(parts, groups, columns)
    grid = triton.cdiv(columns, REDUCE_COLUMNS) * groups
    _add_blocks_kernel[(grid,)](parts, out, blocks, columns, scale, BR=REDUCE_ROWS, BC=REDUCE_COLUMNS)
    return out


def batch_norm_glu_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel."""
    channels = x.shape[1]
    blocks = _Blocks.of(x, channels)
    mean_parts, m2_parts = (_per_channel_like(x, blocks.total, channels) for _ in range(2))
    _moments_kernel[blocks.grid](
        x, mean_parts, m2_parts, channels, blocks.pixels, TILES=TILES_PER_BLOCK, **blocks.tile
    )  # fmt: skip
    mean, var = (_per_channel_like(x, channels) for _ in range(2))
    _merge_blocks_kernel[(triton.cdiv(channels, REDUCE_COLUMNS),)](
        mean_parts, m2_parts, mean, var, channels, blocks.pixels, blocks.total, blocks.per_sample,
        BLOCK_PIXELS=blocks.BP * TILES_PER_BLOCK, BR=REDUCE_ROWS, BC=REDUCE_COLUMNS,
    )  # fmt: skip
    return mean, var


def batch_norm_glu_forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    skip: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    eps: float,
    want_mean: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """y, mean, var, rstd and, if wanted, the mean of y over pixels."""
    if mean is None or var is None:
        mean, var = batch_norm_glu_statistics(x)
    else:
        mean, var = mean.clone(), var.clone()  # results of their own
    samples, channels, height, width = x.shape
    y_channels = channels // 2 if skip is None else channels
    blocks = _Blocks.of(x, y_channels)
    y = empty_map(x, y_channels, height, width)
    rstd = _per_channel_like(x, channels)
    y_parts = _per_channel_like(x, samples, blocks.per_sample, y_channels) if want_mean else None
    _forward_kernel[blocks.grid](
        x, weight, bias, skip, mean, var, eps, y, rstd, y_parts, channels, y_channels,
        channels if skip is None else skip.shape[1], blocks.pixels, TILES=TILES_PER_BLOCK, **blocks.tile,
    )  # fmt: skip
    spatial_mean = _per_channel_like(x, 0) if y_parts is None else _add_blocks(y_parts, 1 / blocks.pixels)
    return y, mean, var, rstd, spatial_mean


def batch_norm_glu_reduce(
    grad_y: Tensor,
    grad_mean: Tensor | None,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    glu: bool,
) -> Tensor:
    """``[2, channels]``: sum dz and sum dz * x-hat."""
    channels, y_channels = x.shape[1], grad_y.shape[1]
    blocks = _Blocks.of(x, y_channels)
    parts = _per_channel_like(x, 1, blocks.total, 2 * channels)
    _sums_kernel[blocks.grid](
        grad_y, grad_mean, x, weight, bias, mean, rstd, parts, channels, y_channels, blocks.pixels, GLU=glu,
        TILES=TILES_PER_BLOCK, **blocks.tile,
    )  # fmt: skip
    return _add_blocks(parts).view(2, channels)


def batch_norm_glu_backward(
    grad_y: Tensor,
    grad_mean: Tensor | None,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    glu: bool,
    training: bool,
    sums: Tensor | None,
    count: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias; ``sums`` and ``count`` of all processes replace the local ones for x's."""
    channels, y_channels = x.shape[1], grad_y.shape[1]
    blocks = _Blocks.of(x, y_channels)
    local = batch_norm_glu_reduce(grad_y, grad_mean, x, weight, bias, mean, rstd, glu)
    if sums is None:
        sums, count = local, blocks.samples * blocks.pixels
    grad_x = torch.empty_like(x)
    _backward_kernel[blocks.tile_grid](
        grad_y, grad_mean, x, weight, bias, mean, rstd, sums, float(count), grad_x, channels, y_channels,
        blocks.pixels, GLU=glu, TRAINING=training, **blocks.tile,
    )  # fmt: skip
    empty = _per_channel_like(x, 0)
    grad_weight = empty if weight is None else local[1].clone()
    grad_bias = empty.clone() if bias is None else local[0].clone()
    return grad_x, grad_weight, grad_bias
