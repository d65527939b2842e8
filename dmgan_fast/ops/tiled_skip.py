"""conv3×3 → batch norm → + skip, tile by tile (``_tiles``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from dmgan_fast import layouts
from dmgan_fast.contract import BATCH_NORM_GLU, TILED_SKIP
from dmgan_fast.ops import _backends, _custom_op
from dmgan_fast.ops._tiles import Block, Tile, Visit, check_rows, every_tile
from dmgan_fast.ops.batch_norm_glu import check_norm, gradient_of_skip, update_running
from dmgan_fast.reference import BatchNorm

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def tiled_skip(
    x: Tensor,
    conv_weight: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    skip: Tensor,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
    rows: int = 64,
    process_group: ProcessGroup | None = None,
    backend: str | None = None,
) -> Tensor:
    """The end of a residual block in tiles: ``y = BN(conv(x)) + skip``, as ``tiled_glu`` computes its own.

    Args:
        x: ``[B, I, H, W]``.
        conv_weight: ``[C, I, 3, 3]``.
        weight, bias, running_mean, running_var, skip, training, momentum, eps, process_group: as in
            ``batch_norm_glu``.
        rows: rows of x in a tile, 4 or more; a tile is of one sample.
        backend: of the arithmetic within a tile; see ``dmgan_fast.functional``.

    Returns:
        ``y [B, C, H, W]``.

    Raises:
        InputError: for shapes, dtypes or devices that do not fit.
        BackendError: if the backend asked for can't run.
    """
    norm = BatchNorm(weight, bias, running_mean, running_var, training, momentum, eps, process_group)
    TILED_SKIP.check(x, conv_weight, *norm[:4], skip)
    check_rows("tiled_skip", rows)
    values = x.numel() // x.shape[1]
    check_norm("tiled_skip", norm, x, conv_weight.shape[0], skip.shape[1], values)
    dtype = _backends.autocast_dtype(x)
    x, conv_weight, skip = x.to(dtype), conv_weight.to(dtype), skip.to(dtype)
    chosen = _backends.choose(BATCH_NORM_GLU, backend, x, {})
    group = process_group.group_name if training and process_group is not None else ""
    tensors = (weight, bias, *((None, None) if training else (running_mean, running_var)), skip)
    y: Tensor
    y, mean, var, _, share = _forward(x, conv_weight, *tensors, eps, training, rows, group, chosen)
    if training:
        update_running(norm, mean, var, values, share)
    return y


def _forward_kernel(
    x: Tensor,
    conv_weight: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    skip: Tensor,
    eps: float,
    training: bool,
    rows: int,
    group: str,
    backend: str,
    visit: Visit = every_tile,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Result, mean, biased variance, 1 / sqrt(var + eps), share of the values."""
    block = Block(x, conv_weight, (weight, bias), False, rows, backend, visit)
    mean, var, share = block.statistics(mean, var, group)
    y, rstd, normalise = block.empty(conv_weight.shape[0]), mean, block.norm("forward")
    for tile in block.tiles:
        z = block.z(tile)
        of_skip = layouts.dense_like(tile.of(skip), z)
        part, _, _, rstd, _ = normalise(z, *block.affine, of_skip, mean, var, eps, False)
        tile.of(y).copy_(part)
    return y, mean.clone(), var.clone(), rstd.clone(), share


def _backward_kernel(
    grad_y: Tensor,
    x: Tensor,
    conv_weight: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    share: Tensor,
    training: bool,
    want_x: bool,
    want_conv_weight: bool,
    rows: int,
    group: str,
    backend: str,
    visit: Visit = every_tile,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, conv_weight (size 0 if not wanted), weight and bias."""
    block = Block(x, conv_weight, (weight, bias), False, rows, backend, visit)

    def of_tile(tile: Tile, z: Tensor) -> tuple[Tensor, None]:
        return layouts.dense_like(tile.of(grad_y), z), None

    sums = block.sums(of_tile, mean, rstd, False)
    norm, shared, wanted = (mean, rstd, False, training), (sums, share, group), (want_x, want_conv_weight)
    grad_x, grad_conv = block.gradients(of_tile, norm, shared, wanted)
    return grad_x, grad_conv, sums[1].clone(), sums[0].clone()


_forward = _custom_op.CustomOp(TILED_SKIP, kernel=_forward_kernel)
_backward = _custom_op.CustomOp(TILED_SKIP, "backward", _backward_kernel)
_custom_op.derive(
    _forward,
    _backward,
    extra={"skip_channels": lambda skip: skip.shape[1]},
    more={"skip": lambda grad_y, skip_channels: gradient_of_skip(grad_y, None, skip_channels)},
)
_backward.refuse_derivatives()
