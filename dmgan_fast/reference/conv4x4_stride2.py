"""A 4×4 convolution with stride 2 and padding 1."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def conv4x4_stride2(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x [B, I, H, W]``, ``weight [O, I, 4, 4]``, ``bias [O]`` → ``[B, O, H // 2, W // 2]``."""
    return F.conv2d(x, weight, bias, stride=2, padding=1)
