"""A 3×3 convolution with padding 1."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x [B, I, H, W]``, ``weight [O, I, 3, 3]``, ``bias [O]`` → ``[B, O, H, W]``."""
    return F.conv2d(x, weight, bias, padding=1)
