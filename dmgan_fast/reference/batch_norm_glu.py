"""Batch norm, then a gated linear unit: y = a * sigmoid(b), where [a, b] are the halves of z = BN(x); or z + skip."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

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
) -> Tensor | tuple[Tensor, Tensor]:
    """``[B, 2C, H, W]`` → ``[B, C, H, W]``; with ``skip [B, K, H, W]``: BN(x) + skip, channel c taking ``c % K``.

    In training the running statistics are updated as ``nn.BatchNorm2d``'s, over all processes of ``process_group``.
    """
    if training and process_group is not None:
        z = _shared_batch_norm(x, weight, bias, running_mean, running_var, momentum, eps, process_group)
    else:
        z = F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    y = F.glu(z, dim=1) if skip is None else z + skip.repeat(1, x.shape[1] // skip.shape[1], 1, 1)
    return (y, y.mean((2, 3))) if return_mean else y


def _shared_batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
    group: ProcessGroup,
) -> Tensor:
    """Batch norm of the batches of all processes taken together."""
    from torch.distributed.nn.functional import all_reduce

    count = all_reduce(x.new_tensor(x.numel() / x.shape[1], dtype=torch.float64), group=group)
    mean = (all_reduce(x.sum((0, 2, 3)), group=group) / count).to(x.dtype)
    centred = x - mean[:, None, None]
    var = (all_reduce(centred.square().sum((0, 2, 3)), group=group) / count).to(x.dtype)
    with torch.no_grad():
        if running_mean is not None:
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        if running_var is not None:
            running_var.lerp_((var * count / (count - 1)).to(running_var.dtype), momentum)
    scale = torch.rsqrt(var + eps) * (1 if weight is None else weight)
    z = centred * scale[:, None, None]
    return z if bias is None else z + bias[:, None, None]
