"""A 3×3 convolution and the batch norm after it in evaluation, then GLU or + skip."""

from __future__ import annotations

from torch import Tensor

from dmgan_fast.reference.batch_norm_glu import BatchNorm, batch_norm_glu
from dmgan_fast.reference.conv3x3 import conv3x3
from dmgan_fast.reference.upsample_conv3x3 import upsample_conv3x3


def folded_conv3x3(
    x: Tensor, conv_weight: Tensor, norm: BatchNorm, skip: Tensor | None = None, *, upsample: bool = False
) -> Tensor:
    """``x [B, I, H, W]``, ``conv_weight [O, I, 3, 3]`` → ``[B, O / 2, H, W]``, with ``upsample`` of twice the height
    and width; with ``skip [B, K, H, W]``, which stands for O / K copies, ``[B, O, H, W]``."""
    return batch_norm_glu(upsample_conv3x3(x, conv_weight) if upsample else conv3x3(x, conv_weight), norm, skip)
