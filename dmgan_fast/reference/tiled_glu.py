"""A block of the generator in one go: convolution, batch norm, GLU, and perhaps the image head."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dmgan_fast.reference.batch_norm_glu import BatchNorm, batch_norm_glu
from dmgan_fast.reference.upsample_conv3x3 import upsample_conv3x3


def tiled_glu(
    x: Tensor, conv_weight: Tensor, norm: BatchNorm, *, upsample: bool = False, head_weight: Tensor | None = None
) -> Tensor:
    """``y = GLU(BN(conv(x)))``, with ``upsample`` of x up-sampled; with ``head_weight``, ``tanh(conv(y))``."""
    z = upsample_conv3x3(x, conv_weight) if upsample else F.conv2d(x, conv_weight, padding=1)
    y = batch_norm_glu(z, norm)
    return y if head_weight is None else torch.tanh(F.conv2d(y, head_weight, padding=1))
