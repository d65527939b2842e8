"""One file per op: argument checks and the choice of a backend."""

import torch

from dmgan_fast.ops import (
    batch_norm_glu,
    conv3x3,
    conv4x4_stride2,
    memory_read,
    memory_write,
    tiled_block,
    upsample_conv3x3,
    words_similarity,
)

# Ops that are Python inside, and what they run: a meter follows them into it.
BODIES = {
    torch.ops.dmgan_fast.tiled_block.default: tiled_block._forward.kernel,
    torch.ops.dmgan_fast.tiled_block_backward.default: tiled_block._backward.kernel,
    torch.ops.dmgan_fast.conv3x3.default: conv3x3._forward.kernel,
    torch.ops.dmgan_fast.conv3x3_backward.default: conv3x3._backward.kernel,
    torch.ops.dmgan_fast.conv4x4_stride2.default: conv4x4_stride2._forward.kernel,
    torch.ops.dmgan_fast.conv4x4_stride2_backward.default: conv4x4_stride2._backward.kernel,
    torch.ops.dmgan_fast.upsample_conv3x3.default: upsample_conv3x3._forward.kernel,
    torch.ops.dmgan_fast.upsample_conv3x3_backward.default: upsample_conv3x3._backward.kernel,
}
# Of these, the picture that is tiled and the rows of a tile, among the arguments.
TILED = {
    tiled_block._forward.kernel: lambda arguments: (arguments[0], arguments[12]),
    tiled_block._backward.kernel: lambda arguments: (arguments[2], arguments[16]),
}

__all__ = [
    "BODIES",
    "batch_norm_glu",
    "conv3x3",
    "conv4x4_stride2",
    "memory_read",
    "memory_write",
    "tiled_block",
    "upsample_conv3x3",
    "words_similarity",
]
