"""A block of the generator in one go: convolution, batch norm, GLU or + skip, and perhaps the image head."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from dmgan_fast.reference.batch_norm_glu import batch_norm_glu
from dmgan_fast.reference.upsample_conv3x3 import upsample_conv3x3

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def tiled_block(
    x: Tensor,
    conv_weight: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    training: bool,
    upsample: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    skip: Tensor | None = None,
    head_weight: Tensor | None = None,
    return_mean: bool = False,
    process_group: ProcessGroup | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """``y = GLU(BN(conv(x)))``, or ``BN(conv(x)) + skip``; with ``head_weight``, ``tanh(conv(y))``."""
    z = upsample_conv3x3(x, conv_weight) if upsample else F.conv2d(x, conv_weight, padding=1)
    y = batch_norm_glu(
        z,
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
    if head_weight is None:
        return y
    assert isinstance(y, Tensor)
    return torch.tanh(F.conv2d(y, head_weight, padding=1))
