"""Batch norm + GLU (or + skip): checks, custom ops with fake tensors and autograd, shared statistics.

Saved for backward: x and per-channel numbers; GLU can't be inverted, so its input is computed again from x.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dmgan_fast import layouts, reference
from dmgan_fast.errors import InputError
from dmgan_fast.ops import _backends, _checks, _custom_op

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

OP = "batch_norm_glu"


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
    statistics = {"running_mean": running_mean, "running_var": running_var}
    _check(x, {"weight": weight, "bias": bias, **statistics}, skip, training, shared=process_group is not None)
    chosen = _backends.choose(OP, backend, x)
    if chosen == "reference":
        return reference.batch_norm_glu(
            x,
            weight,
            bias,
            running_mean,
            running_var,
            training=training,
            momentum=momentum,
            eps=eps,
            skip=skip,
            return_mean=return_mean,
            process_group=process_group,
        )
    if skip is not None:
        skip = skip.to(x.dtype)
    mean, var, group = running_mean, running_var, ""
    share = x.new_ones((), dtype=torch.float32)  # this process's part of all values
    if training:
        mean = var = None
        if process_group is not None:
            group = process_group.group_name
            mean, var, share = _shared_statistics(x.detach(), group, chosen)
    y, mean, var, _, spatial_mean = _forward(
        x, weight, bias, skip, mean, var, share, eps, training, return_mean, group, chosen
    )
    if training:
        update_running(running_mean, running_var, mean, var, x.numel() / x.shape[1], share, momentum)
    return (y, spatial_mean.to(y.dtype)) if return_mean else y


@torch.no_grad()
def update_running(
    running_mean: Tensor | None,
    running_var: Tensor | None,
    mean: Tensor,
    var: Tensor,
    count: float,
    share: Tensor,
    momentum: float,
) -> None:
    """As ``nn.BatchNorm2d``, from a biased variance over ``count / share`` values."""
    for running, value in ((running_mean, mean), (running_var, var * (count / (count - share)))):
        if running is not None:
            running.mul_(1 - momentum).add_(value.to(running.dtype), alpha=momentum)


def _check(x: Tensor, per_channel: dict[str, Tensor | None], skip: Tensor | None, training: bool, shared: bool) -> None:
    _checks.shape(OP, "x", x, ("B", "2C" if skip is None else "C", "H", "W"))
    batch, channels, height, width = x.shape
    if not x.is_floating_point():
        raise InputError(f"{OP}: x must be floating point, got {x.dtype}")
    if skip is None and channels % 2:
        raise InputError(f"{OP}: x must have an even number of channels, got {channels}")
    for name, tensor in per_channel.items():
        if tensor is not None:
            _checks.shape(OP, name, tensor, (channels,))
            _checks.same_device(OP, name, tensor, "x", x)
    if skip is not None:
        _checks.shape(OP, "skip", skip, (batch, "K", height, width))
        _checks.same_device(OP, "skip", skip, "x", x)
        if channels % skip.shape[1]:
            raise InputError(f"{OP}: skip's channels must divide x's {channels}, got {skip.shape[1]}")
    if not training and (per_channel["running_mean"] is None or per_channel["running_var"] is None):
        raise InputError(f"{OP}: evaluation needs running_mean and running_var")
    if training and x.numel() == channels and not shared:
        raise InputError(f"{OP}: one value per channel has no variance to train with, got x {list(x.shape)}")


def _process_group(name: str) -> ProcessGroup:
    from torch.distributed import distributed_c10d

    group: ProcessGroup = getattr(distributed_c10d, "_resolve_process_group")(name)  # noqa: B009, typed differently
    return group


@_custom_op.define("batch_norm_glu_shared_statistics")
def _shared_statistics(x: Tensor, group: str, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance ``[C]`` over all processes of ``group``, and this process's part of the values."""
    mean, var = _backends.function(backend, OP, "batch_norm_glu_statistics")(layouts.dense(x))
    return share_statistics(mean, var, x.numel() / x.shape[1], group)


def share_statistics(mean: Tensor, var: Tensor, count: float, group: str) -> tuple[Tensor, Tensor, Tensor]:
    """From each process's statistics of ``count`` values: those of all, and this process's part of the values."""
    from torch import distributed

    process_group = _process_group(group)
    own = torch.cat((mean, var, torch.full_like(mean[:1], count)))
    gathered = own.new_empty(process_group.size() * own.numel())
    distributed.all_gather_into_tensor(gathered, own, group=process_group)
    means, variances, counts = gathered.view(-1, own.numel()).split((mean.numel(), var.numel(), 1), dim=1)
    mean, var = merge_statistics(means, variances, counts)
    return mean, var, (own[-1] / counts.sum()).to(mean.dtype)


def merge_statistics(means: Tensor, variances: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance ``[C]`` of parts' ``means, variances [K, C]`` of ``counts [K, 1]`` values."""
    parts = counts.double() / counts.double().sum()
    mean = (parts * means.double()).sum(0)
    var = (parts * (variances.double() + (means.double() - mean).square())).sum(0)
    return mean.to(means.dtype), var.to(variances.dtype)


def share_sums(sums: Tensor, group: str) -> Tensor:
    """Sums of all processes."""
    from torch import distributed

    total = sums.clone()
    distributed.all_reduce(total, group=_process_group(group))
    return total


@_shared_statistics.register_fake
def _(x: Tensor, group: str, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    per_channel = x.new_empty(x.shape[1], dtype=torch.float32)
    return per_channel, torch.empty_like(per_channel), x.new_empty((), dtype=torch.float32)


@_custom_op.define("batch_norm_glu")
def _forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    skip: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    share: Tensor,
    eps: float,
    training: bool,
    want_mean: bool,
    group: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Result, mean, biased variance, 1 / sqrt(var + eps), spatial mean of the result (size 0 if not wanted)."""
    x = layouts.dense(x)
    return _backends.function(backend, OP, "batch_norm_glu_forward")(
        x,
        layouts.wide(weight),
        layouts.wide(bias),
        None if skip is None else layouts.dense_like(skip, x),
        layouts.wide(mean),
        layouts.wide(var),
        eps,
        want_mean,
    )


@_forward.register_fake
def _(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    skip: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    share: Tensor,
    eps: float,
    training: bool,
    want_mean: bool,
    group: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch, channels, height, width = x.shape
    result_channels = channels // 2 if skip is None else channels
    mean, new_var, rstd = (x.new_empty(channels, dtype=torch.float32) for _ in range(3))
    y = layouts.empty_picture(x, result_channels, height, width)
    spatial_mean = x.new_empty((batch, result_channels) if want_mean else (0,), dtype=torch.float32)
    return y, mean, new_var, rstd, spatial_mean


@_custom_op.define("batch_norm_glu_backward")
def _backward(
    grad: Tensor,
    grad_mean: Tensor | None,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    share: Tensor,
    glu: bool,
    training: bool,
    group: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias."""
    x = layouts.dense(x)
    arguments = (
        layouts.dense_like(grad, x),
        None if grad_mean is None else grad_mean.contiguous(),
        x,
        layouts.wide(weight),
        layouts.wide(bias),
        mean,
        rstd,
        glu,
    )
    count = x.numel() / x.shape[1]
    if group:
        local = _backends.function(backend, OP, "batch_norm_glu_reduce")(*arguments)
        grad_x, _, _ = _backends.function(backend, OP, "batch_norm_glu_backward")(
            *arguments, training, share_sums(local, group) * share, count
        )
        return grad_x, local[1].clone(), local[0].clone()
    return _backends.function(backend, OP, "batch_norm_glu_backward")(*arguments, training, None, count)


@_backward.register_fake
def _(
    grad: Tensor,
    grad_mean: Tensor | None,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    share: Tensor,
    glu: bool,
    training: bool,
    group: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return layouts.empty_picture(x, *x.shape[1:]), torch.empty_like(mean), torch.empty_like(mean)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, bias, skip, _, _, share, _, ctx.training, _, ctx.group, ctx.backend = inputs
    ctx.save_for_backward(x, weight, bias, output[1], output[3], share)
    ctx.skip_channels = None if skip is None else skip.shape[1]
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor | None, *others: Tensor | None) -> tuple[Tensor | None, ...]:
    x, weight, bias, mean, rstd, share = ctx.saved_tensors
    grad_mean, glu = others[3], ctx.skip_channels is None
    if grad is None:
        grad = x.new_zeros((x.shape[0], x.shape[1] // 2 if glu else x.shape[1], *x.shape[2:]))
    grad_x, grad_weight, grad_bias = _backward(
        grad, grad_mean, x, weight, bias, mean, rstd, share, glu, ctx.training, ctx.group, ctx.backend
    )
    grad_skip = gradient_of_skip(grad, grad_mean, ctx.skip_channels) if ctx.needs_input_grad[3] else None
    return (
        grad_x,
        None if weight is None else grad_weight.to(weight.dtype),
        None if bias is None else grad_bias.to(bias.dtype),
        grad_skip,
        *(None,) * 8,
    )


def gradient_of_skip(grad: Tensor, grad_mean: Tensor | None, channels: int) -> Tensor:
    """Of ``skip [B, K, H, W]``, from the gradients of the result and of its mean over pixels."""
    if grad_mean is not None:
        grad = grad + (grad_mean / grad[0, 0].numel()).to(grad.dtype)[:, :, None, None]
    return grad if channels == grad.shape[1] else grad.unflatten(1, (-1, channels)).sum(1)


_forward.register_autograd(_differentiate, _setup_context)
_backward.refuse_derivatives(OP)
