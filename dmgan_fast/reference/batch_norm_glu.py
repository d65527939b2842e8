"""Batch norm, then a gated linear unit: y = a * sigmoid(b), where [a, b] are the halves of z = BN(x); or z + skip."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from dmgan_fast.layouts import at_least_float32

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class BatchNorm(NamedTuple):
    """A batch norm over C channels, as ``nn.BatchNorm2d`` has it, and whom it shares its batch's statistics with."""

    weight: Tensor | None  # [C], as the next three
    bias: Tensor | None
    running_mean: Tensor | None  # updated in training, needed in evaluation
    running_var: Tensor | None
    training: bool
    momentum: float = 0.1
    eps: float = 1e-5
    process_group: ProcessGroup | None = None


def batch_norm_glu(x: Tensor, norm: BatchNorm, skip: Tensor | None = None) -> Tensor:
    """``[B, 2C, H, W]`` → ``[B, C, H, W]``; with ``skip [B, K, H, W]``: BN(x) + skip, channel c taking ``c % K``.

    In training the running statistics are updated as ``nn.BatchNorm2d``'s, over all processes of ``process_group``.
    """
    z = batch_norm(x, norm)
    return F.glu(z, dim=1) if skip is None else z + skip.repeat(1, x.shape[1] // skip.shape[1], 1, 1)


def batch_norm(x: Tensor, norm: BatchNorm) -> Tensor:
    """Of ``[B, C, H, W]``; in training over the batches of all processes of ``process_group`` taken together."""
    if norm.training and norm.process_group is not None:
        return _shared_batch_norm(x, norm, norm.process_group)
    return _batch_norm(x, norm)


def _batch_norm(x: Tensor, norm: BatchNorm) -> Tensor:
    """PyTorch's own, for parameters and statistics of any floating-point dtypes beside each other."""
    given = norm[:4]
    dtypes = {each.dtype for each in given if each is not None}
    wide = torch.promote_types(x.dtype, torch.float32)
    if dtypes <= {x.dtype} or dtypes == {wide}:
        taken: tuple[Tensor | None, ...] = given
    else:
        taken = tuple(None if each is None else each.to(wide) for each in given)
    weight, bias, *statistics = taken
    z = F.batch_norm(x, statistics[0], statistics[1], weight, bias, norm.training, norm.momentum, norm.eps)
    with torch.no_grad():
        for own, updated in zip(given[2:], statistics, strict=True):
            if norm.training and own is not None and updated is not None and own is not updated:
                own.copy_(updated)
    return z


def _shared_batch_norm(x: Tensor, norm: BatchNorm, group: ProcessGroup) -> Tensor:
    from dmgan_fast.parallel import collectives

    wide = at_least_float32(x)
    sums = wide.sum((0, 2, 3)).double()
    of_all = collectives.total(torch.cat((sums, sums.new_tensor([x.numel() / x.shape[1]]))), group)
    mean, count = (of_all[:-1] / of_all[-1]).to(wide.dtype), of_all[-1].detach()
    centred = wide - mean[:, None, None]
    var = (collectives.total(centred.square().sum((0, 2, 3)).double(), group) / count).to(wide.dtype)
    with torch.no_grad():
        for running, value in ((norm.running_mean, mean), (norm.running_var, var * count / (count - 1))):
            if running is not None:
                running.lerp_(value.to(running.dtype), norm.momentum)
    z = _affine(centred * torch.rsqrt(var + norm.eps)[:, None, None], norm.weight, norm.bias)
    return z.to(x.dtype)


# ------------------------------------------------------- the kernels' contract (docs/backends.md), in any float type


def batch_norm_glu_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance ``[C]``."""
    var, mean = torch.var_mean(at_least_float32(x), (0, 2, 3), correction=0)
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
    """``y, mean, var, rstd, spatial_mean``."""
    if mean is None or var is None:
        mean, var = batch_norm_glu_statistics(x)
    rstd = torch.rsqrt(var + eps)
    z = _affine(_normalised(x, mean, rstd), weight, bias)
    y = F.glu(z, dim=1) if skip is None else z + skip.repeat(1, x.shape[1] // skip.shape[1], 1, 1)
    return y.to(x.dtype), mean.clone(), var.clone(), rstd, y.mean((2, 3)) if want_mean else y.new_empty(0)


def batch_norm_glu_reduce(*given: Any) -> Tensor:
    """Sums ``[2, C]`` of dz and of dz times the normalised x, ``given`` as to ``batch_norm_glu_backward``."""
    return _sums(*_grad_z(*given))


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
    """Gradients of x, weight and bias."""
    normalised, grad_z = _grad_z(grad_y, grad_mean, x, weight, bias, mean, rstd, glu)
    local = _sums(normalised, grad_z)
    if training:
        of_z, of_product = (local if sums is None else sums) / count
        grad_z = grad_z - of_z[:, None, None] - normalised * of_product[:, None, None]
    scale = rstd if weight is None else rstd * weight
    return (grad_z * scale[:, None, None]).to(x.dtype), local[1], local[0]


def _normalised(x: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    return (at_least_float32(x) - mean[:, None, None]) * rstd[:, None, None]


def _affine(normalised: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    z = normalised if weight is None else normalised * weight[:, None, None]
    return z if bias is None else z + bias[:, None, None]


def _sums(normalised: Tensor, grad_z: Tensor) -> Tensor:
    return torch.stack((grad_z.sum((0, 2, 3)), (grad_z * normalised).sum((0, 2, 3))))


def _grad_z(
    grad_y: Tensor,
    grad_mean: Tensor | None,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    glu: bool,
) -> tuple[Tensor, Tensor]:
    """The normalised x, and the gradient of its affine image z."""
    grad = at_least_float32(grad_y)
    if grad_mean is not None:
        grad = grad + (grad_mean / grad[0, 0].numel())[:, :, None, None]
    normalised = _normalised(x, mean, rstd)
    if not glu:
        return normalised, grad
    a, b = _affine(normalised, weight, bias).chunk(2, 1)
    gate = torch.sigmoid(b)
    return normalised, torch.cat((grad * gate, grad * a * gate * (1 - gate)), 1)
