"""Blocks of the generator tile by tile: conv3×3 → batch norm → something, of which only x is kept.

A tile is some rows of one sample. Forward: the convolution of every tile for the statistics, and once more for the
result. Backward: once more for the sums over dz, once more for dz itself. So nothing of full size exists but x, the
result and their gradients, at the price of two more convolutions per pass over x than a block that keeps them.
The arithmetic of a tile is ``batch_norm_glu``'s, on its backends; the convolutions are PyTorch's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from dmgan_fast import layouts
from dmgan_fast.aten.upsample_conv3x3 import gather, spread
from dmgan_fast.contract import BATCH_NORM_GLU
from dmgan_fast.errors import require, require_number
from dmgan_fast.ops import _backends
from dmgan_fast.ops.batch_norm_glu import merge_statistics, share_statistics, share_sums
from dmgan_fast.ops.running import update_running
from dmgan_fast.reference import BatchNorm

HALO = 1  # rows that a 3×3 convolution sees beyond its own
MIN_ROWS = 4  # with fewer, the halos are most of a tile


def check_rows(op: str, rows: int) -> None:
    require_number(op, "rows", rows, whole=True)
    require(
        rows >= MIN_ROWS,
        lambda: f"{op}: rows must be at least {MIN_ROWS} (a tile sees {HALO} more on each side), got {rows}",
    )


def run(
    op: Callable[..., Any],
    norm: BatchNorm,
    values: int,
    tensors: tuple[Tensor, Tensor, Tensor | None],
    options: tuple[Any, ...],
    rows: int,
    backend: str | None,
) -> tuple[Tensor, ...]:
    """Results of a custom op but for the statistics, which update those of the norm: of ``values`` for each channel.

    ``tensors``: x, the convolution's weight, and what the op takes after the norm's tensors; then ``options`` follow.
    """
    dtype = _backends.autocast_dtype(tensors[0])
    x, conv_weight, other = (None if each is None else each.to(dtype) for each in tensors)
    assert x is not None
    chosen = _backends.choose(BATCH_NORM_GLU, backend, x, {})
    group = norm.process_group.group_name if norm.training and norm.process_group is not None else ""
    statistics = (None, None) if norm.training else (norm.running_mean, norm.running_var)
    of_norm = norm.weight, norm.bias, *statistics
    y, mean, var, _, *others, share = op(x, conv_weight, *of_norm, other, *options, rows, group, chosen)
    if norm.training:
        update_running(norm, mean, var, values, share)
    return y, *others


class Tile(NamedTuple):
    """Rows ``first ... last - 1`` of sample ``b`` of an image ``[B, C, H, W]``."""

    b: int
    first: int
    last: int

    def of(self, picture: Tensor, scale: int = 1) -> Tensor:
        """A view ``[1, C, rows, W]`` of the tile, in an image ``scale`` times as high."""
        return picture[self.b : self.b + 1, :, scale * self.first : scale * self.last]

    def with_halo(self, picture: Tensor, scale: int = 1) -> Tensor:
        """The tile and ``HALO`` rows on each side, zeros beyond the image."""
        first, last, height = scale * self.first - HALO, scale * self.last + HALO, picture.shape[2]
        rows = picture[self.b : self.b + 1, :, max(first, 0) : min(last, height)]
        missing = max(-first, 0), max(last - height, 0)
        return F.pad(rows, (0, 0, *missing)) if any(missing) else rows

    def add_with_halo(self, picture: Tensor, rows: Tensor, scale: int = 1) -> None:
        """Add ``rows``, which cover the tile and its halo, to the image; those beyond it are dropped."""
        first, last, height = scale * self.first - HALO, scale * self.last + HALO, picture.shape[2]
        inside = rows[:, :, max(-first, 0) : rows.shape[2] - max(last - height, 0)]
        picture[self.b : self.b + 1, :, max(first, 0) : min(last, height)].add_(inside)


Visit = Callable[[Tensor, int], list[Tile]]
OfTile = Callable[[Tile, Tensor], tuple[Tensor, Tensor | None]]  # of a tile and its z: gradients of y, and of its mean


def every_tile(picture: Tensor, rows: int) -> list[Tile]:
    batch, height = picture.shape[0], picture.shape[2]
    return [Tile(b, k, min(k + rows, height)) for b in range(batch) for k in range(0, height, rows)]


def _heights(picture: Tensor, rows: int, count: int) -> Tensor:
    """Rows ``[K, 1]`` of the first K tiles, computed where the image is: a CUDA graph can't hold host copies."""
    batch, height = picture.shape[0], picture.shape[2]
    left = torch.arange(height, 0, -rows, dtype=torch.float32, device=picture.device)
    return left.clamp(max=rows).repeat(batch)[:count, None]


class Convolution:
    """conv3×3 of a tile with its halo, perhaps after nearest ×2 (as a transposed convolution), and its backward."""

    def __init__(self, weight: Tensor, upsample: bool) -> None:
        self.upsample, self.scale = upsample, 2 if upsample else 1
        self.weight = spread(weight) if upsample else weight
        # A transposed convolution's padding crops: what the halo gives beyond the tile.
        self.stride, self.padding = ([2, 2], [3, 1]) if upsample else ([1, 1], [0, 1])

    def __call__(self, tile: Tensor) -> Tensor:
        if self.upsample:
            return F.conv_transpose2d(tile, self.weight, stride=2, padding=self.padding)
        return F.conv2d(tile, self.weight, padding=self.padding)

    def backward(self, grad: Tensor, tile: Tensor, want_x: bool, want_weight: bool) -> tuple[Tensor, Tensor]:
        geometry = (self.stride, self.padding, [1, 1], self.upsample, [0, 0], 1)
        mask = [want_x, want_weight, False]
        grad_tile, grad_weight, _ = torch.ops.aten.convolution_backward(grad, tile, self.weight, None, *geometry, mask)
        return grad_tile, grad_weight

    def gradient(self, total: Tensor) -> Tensor:
        """Of the 3×3 weight, from the sum of the tiles' ``grad_weight``."""
        return gather(total) if self.upsample else total


class Block:
    """Convolution and batch norm of x, tile by tile, of the arguments of a custom op.

    ``visit``: the tiles of x; without data a few tell what all of them need.
    """

    def __init__(self, given: Any, visit: Visit, *, glu: bool, upsample: bool = False) -> None:
        self.given, self.glu, self.x = given, glu, layouts.dense(given.x)
        self.tiles: list[Tile] = visit(given.x, given.rows)
        self.convolution = Convolution(given.conv_weight, upsample)
        self.scale = self.convolution.scale
        self.wide = torch.promote_types(self.x.dtype, torch.float32)
        weight, bias = (
            None if each is None else each.to(self.wide).contiguous() for each in (given.weight, given.bias)
        )
        self.affine = weight, bias

    def norm(self, name: str) -> Callable[..., Any]:
        """A function of ``batch_norm_glu``'s kernels."""
        return _backends.function(self.given.backend, "batch_norm_glu", f"batch_norm_glu_{name}")

    def z(self, tile: Tile) -> Tensor:
        return layouts.dense(self.convolution(tile.with_halo(self.x)))

    def empty(self, channels: int) -> Tensor:
        """A feature map as wide as the convolution's result."""
        return layouts.empty_map(self.x, channels, self.scale * self.x.shape[2], self.scale * self.x.shape[3])

    @property
    def values(self) -> float:
        """Of each channel of the convolution's result."""
        return float(self.scale**2 * self.x.numel() // self.x.shape[1])

    def statistics(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and biased variance, unless given those of the convolution's result; and this process's share of it."""
        mean, var, group = self.given.mean, self.given.var, self.given.group
        share = self.x.new_ones((), dtype=self.wide)
        if mean is None or var is None:
            parts = [self.norm("statistics")(self.z(tile)) for tile in self.tiles]
            means, variances = (torch.stack(numbers) for numbers in zip(*parts, strict=True))
            mean, var = merge_statistics(means, variances, _heights(self.x, self.given.rows, len(parts)))
            if group:
                mean, var, share = share_statistics(mean, var, self.values, group)
        return mean.to(self.wide), var.to(self.wide), share

    def gradients(
        self, of_tile: OfTile, also: Callable[[Tile, Tensor], None] | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of x and of the convolution's weight (size 0 if not wanted), of the norm's weight and bias.

        ``also`` is called with each tile and its z.
        """
        mean, rstd, group, want_weight = self.given.mean, self.given.rstd, self.given.group, self.given.want_conv_weight
        x, convolution, want_x = self.x, self.convolution, self.given.want_x
        sums, reduce, differentiate = mean.new_zeros((2, len(mean))), self.norm("reduce"), self.norm("backward")
        for tile in self.tiles:
            z = self.z(tile)
            grad_y, of_mean = of_tile(tile, z)
            sums += reduce(grad_y, of_mean, z, *self.affine, mean, rstd, self.glu)
            if also is not None:
                also(tile, z)
        total = share_sums(sums, group) * self.given.share if group else sums
        grad_x = torch.zeros_like(x) if want_x else x.new_empty(0)
        grad_conv = torch.zeros_like(convolution.weight, dtype=mean.dtype) if want_weight else x.new_empty(0)
        for tile in self.tiles if want_x or want_weight else ():
            rows_of_x, z = tile.with_halo(x), self.z(tile)
            grad_y, of_mean = of_tile(tile, z)
            options = self.glu, self.given.training, total, self.values
            grad_z, _, _ = differentiate(grad_y, of_mean, z, *self.affine, mean, rstd, *options)
            of_rows, of_weight = convolution.backward(grad_z, rows_of_x, want_x, want_weight)
            if want_x:
                tile.add_with_halo(grad_x, of_rows)
            if want_weight:
                grad_conv += of_weight
        if want_weight:
            grad_conv = convolution.gradient(grad_conv).to(x.dtype)
        return grad_x, grad_conv, sums[1].clone(), sums[0].clone()
