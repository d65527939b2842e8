"""conv3×3 → batch norm → GLU → perhaps the image head, tile by tile (``_tiles``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dmgan_fast import layouts
from dmgan_fast.contract import TILED_GLU
from dmgan_fast.errors import require, require_flags
from dmgan_fast.ops import _custom_op
from dmgan_fast.ops._tiles import Block, Tile, Visit, check_rows, every_tile, run
from dmgan_fast.ops.batch_norm_glu import check_norm
from dmgan_fast.reference import BatchNorm

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def tiled_glu(
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
    head_weight: Tensor | None = None,
    return_mean: bool = False,
    rows: int = 64,
    process_group: ProcessGroup | None = None,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """A block of the generator in tiles: ``y = GLU(BN(conv(x)))``, keeping only x and holding one tile at a time.

    For resolutions at which the convolution's result does not fit: it is computed tile by tile, twice forward
    (statistics, result) and twice backward (sums, gradient), so a block costs six convolutions instead of three. Sums
    run over tiles, so results differ from the plain block's by rounding.

    Args:
        x: ``[B, I, H, W]``.
        conv_weight: ``[2C, I, 3, 3]``.
        weight, bias, running_mean, running_var, training, momentum, eps, return_mean, process_group: as in
            ``batch_norm_glu``.
        upsample: nearest ×2 before the convolution.
        head_weight: ``[O, C, 3, 3]``: return ``tanh(conv(y, head_weight))``, and y never exists either.
        rows: rows of x in a tile, 4 or more; a tile is of one sample.
        backend: of the arithmetic within a tile; see ``dmgan_fast.functional``.

    Returns:
        ``y [B, C, H, W]`` (twice the resolution with ``upsample``), ``(y, mean)``, or the image ``[B, O, ...]``.

    Raises:
        InputError: for shapes, dtypes or devices that do not fit, and for options that don't go together.
        BackendError: if the backend asked for can't run.
    """
    norm = BatchNorm(weight, bias, running_mean, running_var, training, momentum, eps, process_group)
    TILED_GLU.check(x, conv_weight, *norm[:4], head_weight)
    require_flags("tiled_glu", upsample=upsample, return_mean=return_mean)
    channels, values = conv_weight.shape[0], x.numel() // x.shape[1] * (4 if upsample else 1)
    require(channels % 2 == 0, lambda: f"tiled_glu: conv_weight must give an even number of channels, got {channels}")
    require(
        head_weight is None or not return_mean,
        "tiled_glu: with head_weight there is no mean of y to return",
    )
    check_rows("tiled_glu", rows)
    check_norm("tiled_glu", norm, x, channels, 1, values)
    options = (upsample, eps, training, return_mean)
    y, spatial_mean = run(_forward, norm, values, (x, conv_weight, head_weight), options, rows, backend)
    return (y, spatial_mean.to(y.dtype)) if return_mean else y


def _forward_kernel(given: Any, visit: Visit = every_tile) -> tuple[Tensor, ...]:
    block = Block(given, visit, glu=True, upsample=given.upsample)
    x, head_weight, scale, outputs = block.x, given.head_weight, block.scale, given.conv_weight.shape[0] // 2
    mean, var, share = block.statistics()
    if head_weight is None:
        y = block.empty(outputs)
    else:  # tiles overlap in the image: halves are summed in float32
        size = (x.shape[0], head_weight.shape[0], scale * x.shape[2], scale * x.shape[3])
        y = x.new_zeros(size, dtype=block.wide)
    spatial_mean = x.new_zeros((x.shape[0], outputs) if given.want_mean else (0,), dtype=block.wide)
    rstd, normalise, options = mean, block.norm("forward"), (given.eps, given.want_mean)
    for tile in block.tiles:
        part, _, _, rstd, part_mean = normalise(block.z(tile), *block.affine, None, mean, var, *options)
        if head_weight is None:
            tile.of(y, scale).copy_(part)
        else:
            tile.add_with_halo(y, F.conv2d(part, head_weight, padding=(2, 1)), scale)
        if given.want_mean:
            spatial_mean[tile.b] += part_mean[0] * ((tile.last - tile.first) / x.shape[2])
    if head_weight is not None:
        y = torch.tanh_(y).to(x.dtype)
    return y, mean.clone(), var.clone(), rstd.clone(), spatial_mean, share


def _backward_kernel(given: Any, visit: Visit = every_tile) -> tuple[Tensor, ...]:
    block = Block(given, visit, glu=True, upsample=given.upsample)
    x, head_weight, scale, normalise = block.x, given.head_weight, block.scale, block.norm("forward")
    # With a head, y is tanh of its result.
    grad_y = given.grad_y if given.image is None else given.grad_y * (1 - given.image.square())
    grad_head = x.new_empty(0) if head_weight is None else torch.zeros_like(head_weight, dtype=given.mean.dtype)

    def of_tile(tile: Tile, z: Tensor) -> tuple[Tensor, Tensor | None]:
        if head_weight is not None:
            of_y = F.conv_transpose2d(tile.with_halo(grad_y, scale), head_weight, padding=(2, 1))
            return layouts.dense_like(of_y, z), None
        part = (tile.last - tile.first) / x.shape[2]  # the kernels divide by the pixels of a tile
        of_mean = None if given.grad_spatial_mean is None else given.grad_spatial_mean[tile.b : tile.b + 1] * part
        return layouts.dense_like(tile.of(grad_y, scale), z), of_mean

    def add_to_head(tile: Tile, z: Tensor) -> None:
        var, eps = given.rstd.pow(-2), 0.0
        y = normalise(z, *block.affine, None, given.mean, var, eps, False)[0]
        geometry = ([1, 1], [2, 1], [1, 1], False, [0, 0], 1, [False, True, False])
        of_image = tile.with_halo(grad_y, scale)
        grad_head.add_(torch.ops.aten.convolution_backward(of_image, y, head_weight, None, *geometry)[1])

    gradients = block.gradients(of_tile, None if head_weight is None else add_to_head)
    return *gradients, grad_head.to(x.dtype)


_forward = _custom_op.CustomOp(TILED_GLU, kernel=_forward_kernel)
_backward = _custom_op.CustomOp(TILED_GLU, "backward", _backward_kernel)
_custom_op.derive(
    _forward,
    _backward,
    extra={"image": lambda head_weight, y: None if head_weight is None else y},
)
_backward.refuse_derivatives()
