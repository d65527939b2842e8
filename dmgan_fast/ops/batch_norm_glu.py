"""Batch norm + GLU (or + skip): checks, custom ops, statistics shared by processes.

Saved for backward: x and per-channel numbers; GLU can't be inverted, so its input is recomputed from x.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dmgan_fast import reference
from dmgan_fast.contract import BATCH_NORM_GLU
from dmgan_fast.errors import require, require_flags, require_number
from dmgan_fast.ops import _backends, _custom_op
from dmgan_fast.ops.running import update_running
from dmgan_fast.reference import BatchNorm

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def batch_norm_glu(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
    skip: Tensor | None = None,
    return_mean: bool = False,
    process_group: ProcessGroup | None = None,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Batch norm, then a gated linear unit: ``y = a * sigmoid(b)`` for the halves ``[a, b]`` of ``z = BN(x)``.

    With ``skip`` it is ``y = z + skip`` instead, the end of a residual block.

    Args:
        x: ``[B, 2C, H, W]``; with ``skip``, any number of channels.
        weight, bias: ``[2C]`` each, or None.
        running_mean, running_var: ``[2C]`` each; in training updated in place as ``nn.BatchNorm2d`` does (unbiased
            variance), or None; needed in evaluation.
        training: normalise by the batch's statistics.
        momentum, eps: as in ``nn.BatchNorm2d``.
        skip: ``[B, K, H, W]`` with K dividing the channels of x; channel c takes skip's channel ``c % K``, so that
            ``z + cat(h, h)`` needs no copy of h.
        return_mean: also return the mean of y over pixels, ``[B, C]``.
        process_group: in training, statistics over the batches of all its processes, as ``nn.SyncBatchNorm``.
        backend: see ``dmgan_fast.functional``.

    Returns:
        ``y [B, C, H, W]`` (with ``skip`` as many channels as x), or ``(y, mean)``.

    Raises:
        InputError: for shapes or devices that do not fit, or one value per channel in training.
        BackendError: if the backend asked for can't run.
    """
    norm = BatchNorm(weight, bias, running_mean, running_var, training, momentum, eps, process_group)
    sizes, channels = BATCH_NORM_GLU.check(x, *norm[:4], skip), x.shape[1]
    require(
        channels % 2 == 0 or skip is not None,
        lambda: f"batch_norm_glu: x must have an even number of channels, got {channels}",
    )
    require_flags("batch_norm_glu", return_mean=return_mean)
    check_norm("batch_norm_glu", norm, x, channels, sizes.get("K", 1), x.numel() // channels)
    chosen = _backends.choose(BATCH_NORM_GLU, backend, x, sizes)
    if chosen == "reference":
        y = reference.batch_norm_glu(x, norm, skip)
        return (y, y.mean((2, 3))) if return_mean else y
    if skip is not None:
        skip = skip.to(x.dtype)
    mean, var, group = running_mean, running_var, ""
    share: Tensor | None = None  # this process's part of all values; None: it has them all
    if training:
        mean = var = None
        if process_group is not None:
            group = process_group.group_name
            mean, var, share = _shared_statistics(x.detach(), group, chosen)
    y, mean, var, _, spatial_mean = _forward(
        x, weight, bias, skip, mean, var, share, eps, training, return_mean, group, chosen
    )
    if training:
        update_running(norm, mean, var, x.numel() / channels, share)
    return (y, spatial_mean.to(y.dtype)) if return_mean else y


def check_norm(op: str, norm: BatchNorm, x: Tensor, channels: int, skip_channels: int, values: int) -> None:
    """Of ``channels`` with ``values`` each in this process, normalised from x, with a skip that is repeated."""
    require_flags(op, training=norm.training)
    require_number(op, "momentum", norm.momentum, least=0, most=1)
    require_number(op, "eps", norm.eps, least=0)
    require(not norm.training or norm.eps > 0, lambda: f"{op}: eps must be above 0 in training, got {norm.eps}")
    require(channels % skip_channels == 0, lambda: f"{op}: skip's channels must divide {channels}, got {skip_channels}")
    require(
        norm.training or not (norm.running_mean is None or norm.running_var is None),
        lambda: f"{op}: evaluation needs running_mean and running_var",
    )
    require(
        (norm.running_mean is None) == (norm.running_var is None),
        lambda: f"{op}: give running_mean and running_var together, or neither",
    )
    require(
        not norm.training or values > 1 or norm.process_group is not None,
        lambda: f"{op}: one value per channel has no variance to train with, got x {list(x.shape)}",
    )
    for name, running in (("running_mean", norm.running_mean), ("running_var", norm.running_var)):
        require(
            running is None or not norm.training or running.stride(0) != 0 or running.shape[0] == 1,
            f"{op}: {name} is one number expanded to all channels, which can't be updated in place",
        )
        require(
            running is None or not norm.training or torch.compiler.is_compiling() or not running.is_neg(),
            f"{op}: {name} is a negated view of another tensor, which can't be updated in place",
        )


def _process_group(name: str) -> ProcessGroup:
    from torch.distributed import distributed_c10d

    group: ProcessGroup = getattr(distributed_c10d, "_resolve_process_group")(name)  # noqa: B009, typed differently
    return group


def share_statistics(mean: Tensor, var: Tensor, count: float, group: str) -> tuple[Tensor, Tensor, Tensor]:
    """From each process's statistics of ``count`` values: those of all, and this process's part of the values."""
    from dmgan_fast.parallel import collectives

    def merge(parts: Tensor) -> Tensor:  # [P, 3, C]
        mean, var = merge_statistics(*parts.unbind(1))
        return torch.stack((mean, var, parts[:, 2].sum(0)))

    own = torch.stack((mean, var, torch.full_like(mean, count)))
    of_all = collectives.merged(own, _process_group(group), merge)
    return of_all[0].clone(), of_all[1].clone(), own[2, 0] / of_all[2, 0]


def merge_statistics(means: Tensor, variances: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance ``[C]`` of parts' ``means, variances [K, C]`` of ``counts [K, 1 or C]`` values."""
    parts = counts.double() / counts.double().sum(0)
    mean = (parts * means.double()).sum(0)
    var = (parts * (variances.double() + (means.double() - mean).square())).sum(0)
    return mean.to(means.dtype), var.to(variances.dtype)


def share_sums(sums: Tensor, group: str) -> Tensor:
    """Sums of all processes."""
    from dmgan_fast.parallel import collectives

    return collectives.total_of(sums, _process_group(group))


def gradient_of_skip(grad_y: Tensor, grad_spatial_mean: Tensor | None, skip_channels: int) -> Tensor:
    """Of ``skip [B, K, H, W]``, from the gradients of the result and of its mean over pixels."""
    if grad_spatial_mean is not None:
        grad_y = grad_y + (grad_spatial_mean / grad_y[0, 0].numel()).to(grad_y.dtype)[:, :, None, None]
    batch, channels, *sides = grad_y.shape
    return grad_y if skip_channels == channels else grad_y.reshape(batch, -1, skip_channels, *sides).sum(1)


def _shared_statistics_kernel(given: Any) -> tuple[Tensor, Tensor, Tensor]:
    mean, var = _statistics(given.x, given.backend)
    return share_statistics(mean, var, given.x.numel() / given.x.shape[1], given.group)


def _backward_kernel(given: Any) -> Any:
    norm = (given.weight, given.bias, given.mean, given.rstd, given.glu)
    arguments = (given.grad_y, given.grad_spatial_mean, given.x, *norm)
    count = given.x.numel() / given.x.shape[1]
    if given.share is None:
        return _gradients(*arguments, given.training, None, count, given.backend)
    local = _reduce(*arguments, given.backend)
    sums = share_sums(local, given.group) * given.share
    grad_x, _, _ = _gradients(*arguments, given.training, sums, count, given.backend)
    return grad_x, local[1].clone(), local[0].clone()


_statistics, _reduce, _gradients = (
    _custom_op.on_backend(BATCH_NORM_GLU, name) for name in ("statistics", "reduce", "backward")
)
_shared_statistics = _custom_op.CustomOp(BATCH_NORM_GLU, "shared_statistics", _shared_statistics_kernel)
_forward = _custom_op.CustomOp(BATCH_NORM_GLU)
_backward = _custom_op.CustomOp(BATCH_NORM_GLU, "backward", _backward_kernel)
_custom_op.derive(
    _forward,
    _backward,
    extra={
        "glu": lambda skip: skip is None,
        "skip_channels": lambda skip: None if skip is None else skip.shape[1],
    },
    more={"skip": gradient_of_skip},
)
_backward.refuse_derivatives()
