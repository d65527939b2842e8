"""conv3×3 → batch norm → + skip, tile by tile (``_tiles``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from dmgan_fast import layouts
from dmgan_fast.contract import TILED_SKIP
from dmgan_fast.ops import _custom_op
from dmgan_fast.ops._tiles import Block, Visit, check_rows, every_tile, run
from dmgan_fast.ops.batch_norm_glu import check_norm, gradient_of_skip
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
    (y,) = run(_forward, norm, values, (x, conv_weight, skip), (eps, training), rows, backend)
    return y


def _forward_kernel(given: Any, visit: Visit = every_tile) -> tuple[Tensor, ...]:
    block = Block(given, visit, glu=False)
    mean, var, share = block.statistics()
    y, rstd, normalise = block.empty(given.conv_weight.shape[0]), mean, block.norm("forward")
    for tile in block.tiles:
        z = block.z(tile)
        skip = layouts.dense_like(tile.of(given.skip), z)
        part, _, _, rstd, _ = normalise(z, *block.affine, skip, mean, var, given.eps, False)
        tile.of(y).copy_(part)
    return y, mean.clone(), var.clone(), rstd.clone(), share


def _backward_kernel(given: Any, visit: Visit = every_tile) -> tuple[Tensor, ...]:
    block = Block(given, visit, glu=False)
    return block.gradients(lambda tile, z: (layouts.dense_like(tile.of(given.grad_y), z), None))


_forward = _custom_op.CustomOp(TILED_SKIP, kernel=_forward_kernel)
_backward = _custom_op.CustomOp(TILED_SKIP, "backward", _backward_kernel)
_custom_op.derive(
    _forward,
    _backward,
    extra={"skip_channels": lambda skip: skip.shape[1]},
    more={"skip": lambda grad_y, skip_channels: gradient_of_skip(grad_y, None, skip_channels)},
)
_backward.refuse_derivatives()
