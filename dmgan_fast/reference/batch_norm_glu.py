"""Batch norm, then a gated linear unit: y = a * sigmoid(b), where [a, b] are the halves of BN(x)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


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
) -> Tensor:
    """``[B, 2C, H, W]`` → ``[B, C, H, W]``; in training the running statistics are updated as ``nn.BatchNorm2d``'s."""
    return F.glu(F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps), dim=1)
