"""A block of the generator in tiles: conv3×3 → BN → GLU (or + skip) → perhaps the image head, of which only x is kept.

A tile is some rows of one sample. Forward: the convolution of every tile for the statistics, and once more for the
result. Backward: once more for the sums over dz, once more for dz itself. So nothing of full size exists but x, the
result and their gradients, at the price of two more convolutions per pass over x than a block that keeps them.
The arithmetic of a tile is ``batch_norm_glu``'s, on its backends; the convolutions are PyTorch's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from dmgan_fast import layouts
from dmgan_fast.aten.upsample_conv3x3 import gather, spread
from dmgan_fast.errors import InputError
from dmgan_fast.ops import _backends, _checks, _custom_op, batch_norm_glu

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

OP = "tiled_block"
HALO = 1  # rows that a 3×3 convolution sees beyond its own
MIN_ROWS = 4  # with fewer, the halos are most of a tile


def tiled_block(
    x: Tensor,
    conv_weight: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    training: bool,
    upsample: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    skip: Tensor | None = None,
    head_weight: Tensor | None = None,
    return_mean: bool = False,
    rows: int = 64,
    process_group: ProcessGroup | None = None,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    per_channel = {"weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var}
    _check(x, conv_weight, per_channel, skip, head_weight, training, upsample, return_mean, rows)
    dtype = _backends.autocast_dtype(x)
    x, conv_weight = x.to(dtype), conv_weight.to(dtype)
    skip = None if skip is None else skip.to(dtype)
    head_weight = None if head_weight is None else head_weight.to(dtype)
    chosen = _backends.choose(batch_norm_glu.OP, backend, x)
    group = process_group.group_name if training and process_group is not None else ""
    given = (None, None) if training else (running_mean, running_var)
    pictures, options = (skip, head_weight), (upsample, eps, training, return_mean, rows, group, chosen)
    y, mean, var, _, spatial_mean, share = _forward(x, conv_weight, weight, bias, *given, *pictures, *options)
    if training:
        count = x.numel() / x.shape[1] * (4 if upsample else 1)
        batch_norm_glu.update_running(running_mean, running_var, mean, var, count, share, momentum)
    return (y, spatial_mean.to(y.dtype)) if return_mean else y


def _check(
    x: Tensor,
    conv_weight: Tensor,
    per_channel: dict[str, Tensor | None],
    skip: Tensor | None,
    head_weight: Tensor | None,
    training: bool,
    upsample: bool,
    return_mean: bool,
    rows: int,
) -> None:
    _checks.shape(OP, "x", x, ("B", "I", "H", "W"))
    batch, channels, height, width = x.shape
    _checks.shape(OP, "conv_weight", conv_weight, ("2C" if skip is None else "C", channels, 3, 3))
    outputs = conv_weight.shape[0]
    _checks.same_kind(OP, "x", {"x": x, "conv_weight": conv_weight, "skip": skip, "head_weight": head_weight})
    for name, tensor in per_channel.items():
        if tensor is not None:
            _checks.shape(OP, name, tensor, (outputs,))
            _checks.same_device(OP, name, tensor, "x", x)
    if skip is None and outputs % 2:
        raise InputError(f"{OP}: conv_weight must give an even number of channels, got {outputs}")
    if skip is not None:
        if upsample or head_weight is not None:
            raise InputError(f"{OP}: skip goes with neither upsample nor head_weight")
        _checks.shape(OP, "skip", skip, (batch, "K", height, width))
        if outputs % skip.shape[1]:
            raise InputError(f"{OP}: skip's channels must divide {outputs}, got {skip.shape[1]}")
    if head_weight is not None:
        _checks.shape(OP, "head_weight", head_weight, ("O", outputs // 2, 3, 3))
        if return_mean:
            raise InputError(f"{OP}: with head_weight there is no mean of y to return")
    if rows < MIN_ROWS:
        raise InputError(f"{OP}: rows must be at least {MIN_ROWS} (a tile sees {HALO} more on each side), got {rows}")
    if not training and (per_channel["running_mean"] is None or per_channel["running_var"] is None):
        raise InputError(f"{OP}: evaluation needs running_mean and running_var")
    if training and batch * height * width == 1 and not upsample:
        raise InputError(f"{OP}: one value per channel has no variance to train with, got x {list(x.shape)}")


# --------------------------------------------------------------------------------------------------------------- tiles


class Tile(NamedTuple):
    """Rows ``first ... last - 1`` of sample ``b`` of a picture ``[B, C, H, W]``."""

    b: int
    first: int
    last: int

    def of(self, picture: Tensor, scale: int = 1) -> Tensor:
        """A view ``[1, C, rows, W]`` of the tile, in a picture ``scale`` times as high."""
        return picture[self.b : self.b + 1, :, scale * self.first : scale * self.last]

    def with_halo(self, picture: Tensor, scale: int = 1) -> Tensor:
        """The tile and ``HALO`` rows on each side, zeros beyond the picture."""
        first, last, height = scale * self.first - HALO, scale * self.last + HALO, picture.shape[2]
        rows = picture[self.b : self.b + 1, :, max(first, 0) : min(last, height)]
        missing = max(-first, 0), max(last - height, 0)
        return F.pad(rows, (0, 0, *missing)) if any(missing) else rows

    def add_with_halo(self, picture: Tensor, rows: Tensor, scale: int = 1) -> None:
        """Add ``rows``, which cover the tile and its halo, to the picture; those beyond it are dropped."""
        first, last, height = scale * self.first - HALO, scale * self.last + HALO, picture.shape[2]
        inside = rows[:, :, max(-first, 0) : rows.shape[2] - max(last - height, 0)]
        picture[self.b : self.b + 1, :, max(first, 0) : min(last, height)].add_(inside)


_few = ContextVar("few", default=False)


def _tiles(picture: Tensor, rows: int) -> list[Tile]:
    batch, height = picture.shape[0], picture.shape[2]
    tiles = [Tile(b, k, min(k + rows, height)) for b in range(batch) for k in range(0, height, rows)]
    return [tiles[0], tiles[-1]] if _few.get() and len(tiles) > 2 else tiles


def _heights(picture: Tensor, rows: int) -> Tensor:
    """Rows ``[K, 1]`` of each tile, computed where the picture is: a CUDA graph can't hold copies from the host."""
    batch, height = picture.shape[0], picture.shape[2]
    left = torch.arange(height, 0, -rows, dtype=torch.float32, device=picture.device)
    heights = left.clamp(max=rows).repeat(batch)[:, None]
    return heights[:: len(heights) - 1] if _few.get() and len(heights) > 2 else heights


@contextmanager
def few_tiles() -> Iterator[None]:
    """Within, ops visit their first and last tile only: for tensors without data, whose other tiles need the same."""
    token = _few.set(True)
    try:
        yield
    finally:
        _few.reset(token)


def tiles_per_visit(x: Tensor, rows: int) -> float:
    """Tiles of ``x`` for each that ``few_tiles`` visits."""
    with few_tiles():
        visited = sum(tile.last - tile.first for tile in _tiles(x, rows))
    return x.shape[0] * x.shape[2] / visited


class _Convolution:
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


def _wide(x: Tensor | None) -> Tensor | None:
    """Per-channel numbers: at least float32, contiguous."""
    return None if x is None else x.to(torch.promote_types(x.dtype, torch.float32)).contiguous()


# ------------------------------------------------------------------------------------------------------------- forward


@_custom_op.define("tiled_block")
def _forward(
    x: Tensor,
    conv_weight: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    skip: Tensor | None,
    head_weight: Tensor | None,
    upsample: bool,
    eps: float,
    training: bool,
    want_mean: bool,
    rows: int,
    group: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Result, mean, biased variance, 1 / sqrt(var + eps), spatial mean (size 0 if not wanted), share of the values."""
    x = layouts.dense(x)
    convolution, scale = _Convolution(conv_weight, upsample), 2 if upsample else 1
    normalise = _backends.function(backend, batch_norm_glu.OP, "batch_norm_glu_forward")
    outputs = conv_weight.shape[0] if skip is not None else conv_weight.shape[0] // 2
    batch, height, width = x.shape[0], scale * x.shape[2], scale * x.shape[3]
    wide_dtype = torch.promote_types(x.dtype, torch.float32)
    share = x.new_ones((), dtype=wide_dtype)
    if mean is None or var is None:
        mean, var = _statistics(x, convolution, rows, backend)
        if group:
            mean, var, share = batch_norm_glu.share_statistics(mean, var, float(batch * height * width), group)
    mean, var = mean.to(wide_dtype), var.to(wide_dtype)
    affine = _wide(weight), _wide(bias)
    if head_weight is None:
        y = layouts.empty_picture(x, outputs, height, width)
    else:  # tiles overlap in the image: halves are summed in float32
        y = torch.zeros((batch, head_weight.shape[0], height, width), dtype=wide_dtype, device=x.device)
    spatial_mean = x.new_zeros((batch, outputs) if want_mean else (0,), dtype=wide_dtype)
    rstd = mean
    for tile in _tiles(x, rows):
        z = layouts.dense(convolution(tile.with_halo(x)))
        of_skip = None if skip is None else layouts.dense_like(tile.of(skip), z)
        part, _, _, rstd, part_mean = normalise(z, *affine, of_skip, mean, var, eps, want_mean)
        if head_weight is None:
            tile.of(y, scale).copy_(part)
        else:
            tile.add_with_halo(y, F.conv2d(part, head_weight, padding=(2, 1)), scale)
        if want_mean:
            spatial_mean[tile.b] += part_mean[0] * ((tile.last - tile.first) / x.shape[2])
    if head_weight is not None:
        y = torch.tanh_(y).to(x.dtype)
    return y, mean.clone(), var.clone(), rstd.clone(), spatial_mean, share


def _statistics(x: Tensor, convolution: _Convolution, rows: int, backend: str) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of the convolution's result, merged over tiles."""
    statistics = _backends.function(backend, batch_norm_glu.OP, "batch_norm_glu_statistics")
    parts = [(*statistics(layouts.dense(convolution(tile.with_halo(x)))), tile) for tile in _tiles(x, rows)]
    means, variances = (torch.stack([part[k] for part in parts]) for k in (0, 1))
    return batch_norm_glu.merge_statistics(means, variances, _heights(x, rows))


@_forward.register_fake
def _(
    x: Tensor,
    conv_weight: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    skip: Tensor | None,
    head_weight: Tensor | None,
    upsample: bool,
    eps: float,
    training: bool,
    want_mean: bool,
    rows: int,
    group: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    channels, scale = conv_weight.shape[0], 2 if upsample else 1
    outputs = channels if skip is not None else channels // 2
    batch, height, width = x.shape[0], scale * x.shape[2], scale * x.shape[3]
    dtype = torch.promote_types(x.dtype, torch.float32)
    if head_weight is None:
        y = layouts.empty_picture(x, outputs, height, width)
    else:
        y = x.new_empty((batch, head_weight.shape[0], height, width))
    mean, new_var, rstd = (x.new_empty(channels, dtype=dtype) for _ in range(3))
    spatial_mean = x.new_empty((batch, outputs) if want_mean else (0,), dtype=dtype)
    return y, mean, new_var, rstd, spatial_mean, x.new_empty((), dtype=dtype)


# ------------------------------------------------------------------------------------------------------------ backward


@_custom_op.define("tiled_block_backward")
def _backward(
    grad: Tensor,
    grad_mean: Tensor | None,
    x: Tensor,
    conv_weight: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    head_weight: Tensor | None,
    image: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    share: Tensor,
    upsample: bool,
    glu: bool,
    training: bool,
    want_x: bool,
    want_weight: bool,
    rows: int,
    group: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, conv_weight, weight, bias and head_weight (size 0 if not wanted or not there)."""
    x = layouts.dense(x)
    convolution, scale = _Convolution(conv_weight, upsample), 2 if upsample else 1
    reduce, differentiate, normalise = (
        _backends.function(backend, batch_norm_glu.OP, f"batch_norm_glu_{name}")
        for name in ("reduce", "backward", "forward")
    )
    affine = _wide(weight), _wide(bias)
    count = float(scale * scale * x.numel() // x.shape[1])
    if head_weight is not None:
        assert image is not None
        grad = grad * (1 - image.square())  # through tanh

    def gradients(tile: Tile, z: Tensor) -> tuple[Tensor, Tensor | None]:
        """Of y and of its mean, for one tile."""
        if head_weight is not None:
            grad_y = F.conv_transpose2d(tile.with_halo(grad, scale), head_weight, padding=(2, 1))
            return layouts.dense_like(grad_y, z), None
        part = (tile.last - tile.first) / x.shape[2]  # the kernels divide by the pixels of a tile
        of_mean = None if grad_mean is None else _wide(grad_mean[tile.b : tile.b + 1] * part)
        return layouts.dense_like(tile.of(grad, scale), z), of_mean

    sums = mean.new_zeros((2, len(mean)))
    grad_head = x.new_empty(0) if head_weight is None else torch.zeros_like(head_weight, dtype=mean.dtype)
    for tile in _tiles(x, rows):
        z = layouts.dense(convolution(tile.with_halo(x)))
        grad_y, of_mean = gradients(tile, z)
        sums += reduce(grad_y, of_mean, z, *affine, mean, rstd, glu)
        if head_weight is not None:
            var, eps = rstd.pow(-2), 0.0
            y = normalise(z, *affine, None, mean, var, eps, False)[0]
            geometry = ([1, 1], [2, 1], [1, 1], False, [0, 0], 1, [False, True, False])
            grad_image = tile.with_halo(grad, scale)
            grad_head += torch.ops.aten.convolution_backward(grad_image, y, head_weight, None, *geometry)[1]
    total = batch_norm_glu.share_sums(sums, group) * share if group else sums

    grad_x = torch.zeros_like(x) if want_x else x.new_empty(0)
    grad_conv = torch.zeros_like(convolution.weight, dtype=mean.dtype) if want_weight else x.new_empty(0)
    for tile in _tiles(x, rows) if want_x or want_weight else ():
        rows_of_x = tile.with_halo(x)
        z = layouts.dense(convolution(rows_of_x))
        grad_y, of_mean = gradients(tile, z)
        grad_z, _, _ = differentiate(grad_y, of_mean, z, *affine, mean, rstd, glu, training, total, count)
        of_rows, of_weight = convolution.backward(grad_z, rows_of_x, want_x, want_weight)
        if want_x:
            tile.add_with_halo(grad_x, of_rows)
        if want_weight:
            grad_conv += of_weight
    if want_weight:
        grad_conv = convolution.gradient(grad_conv).to(conv_weight.dtype)
    return grad_x, grad_conv, sums[1].clone(), sums[0].clone(), grad_head.to(x.dtype)


@_backward.register_fake
def _(
    grad: Tensor,
    grad_mean: Tensor | None,
    x: Tensor,
    conv_weight: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    head_weight: Tensor | None,
    image: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    share: Tensor,
    upsample: bool,
    glu: bool,
    training: bool,
    want_x: bool,
    want_weight: bool,
    rows: int,
    group: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return (
        layouts.empty_picture(x, *x.shape[1:]) if want_x else x.new_empty(0),
        conv_weight.new_empty(conv_weight.shape) if want_weight else x.new_empty(0),
        torch.empty_like(mean),
        torch.empty_like(mean),
        x.new_empty(0 if head_weight is None else head_weight.shape),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, conv_weight, weight, bias, _, _, skip, head_weight, *options = inputs
    ctx.upsample, _, ctx.training, _, ctx.rows, ctx.group, ctx.backend = options
    image = None if head_weight is None else output[0]
    ctx.save_for_backward(x, conv_weight, weight, bias, head_weight, image, output[1], output[3], output[5])
    ctx.skip_channels = None if skip is None else skip.shape[1]
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor | None, *others: Tensor | None) -> tuple[Tensor | None, ...]:
    x, conv_weight, weight, bias, head_weight, image, mean, rstd, share = ctx.saved_tensors
    grad_mean, glu, scale = others[3], ctx.skip_channels is None, 2 if ctx.upsample else 1
    if grad is None:
        channels = conv_weight.shape[0] // 2 if glu else conv_weight.shape[0]
        grad = x.new_zeros((x.shape[0], channels, scale * x.shape[2], scale * x.shape[3]))
    want_x, want_weight = ctx.needs_input_grad[:2]
    grad_x, grad_conv, grad_weight, grad_bias, grad_head = _backward(
        grad,
        grad_mean,
        x,
        conv_weight,
        weight,
        bias,
        head_weight,
        image,
        mean,
        rstd,
        share,
        ctx.upsample,
        glu,
        ctx.training,
        want_x,
        want_weight,
        ctx.rows,
        ctx.group,
        ctx.backend,
    )
    grad_skip = None
    if ctx.needs_input_grad[6]:
        grad_skip = batch_norm_glu.gradient_of_skip(grad, grad_mean, ctx.skip_channels)
    return (
        grad_x if want_x else None,
        grad_conv if want_weight else None,
        None if weight is None else grad_weight.to(weight.dtype),
        None if bias is None else grad_bias.to(bias.dtype),
        None,
        None,
        grad_skip,
        None if head_weight is None else grad_head.to(head_weight.dtype),
        *(None,) * 7,
    )


_forward.register_autograd(_differentiate, _setup_context)
_backward.refuse_derivatives(OP)
