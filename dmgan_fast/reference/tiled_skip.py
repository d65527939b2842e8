"""The end of a residual block in one go: convolution, batch norm, + skip."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from dmgan_fast.reference.batch_norm_glu import BatchNorm, batch_norm_glu


def tiled_skip(x: Tensor, conv_weight: Tensor, norm: BatchNorm, skip: Tensor) -> Tensor:
    """``y = BN(conv(x)) + skip``, channel c taking skip's channel ``c % K``."""
    return batch_norm_glu(F.conv2d(x, conv_weight, padding=1), norm, skip)
