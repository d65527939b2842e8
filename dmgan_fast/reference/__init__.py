"""The definition of truth: each op as the paper writes it, in plain PyTorch, for any float dtype."""

from dmgan_fast.reference.batch_norm_glu import BatchNorm, batch_norm_glu
from dmgan_fast.reference.conv3x3 import conv3x3
from dmgan_fast.reference.conv4x4_stride2 import conv4x4_stride2
from dmgan_fast.reference.folded_conv3x3 import folded_conv3x3
from dmgan_fast.reference.memory_read import memory_read
from dmgan_fast.reference.memory_write import MemoryWeights, memory_write
from dmgan_fast.reference.tiled_glu import tiled_glu
from dmgan_fast.reference.tiled_skip import tiled_skip
from dmgan_fast.reference.upsample_conv3x3 import upsample_conv3x3
from dmgan_fast.reference.words_similarity import words_similarity

__all__ = [
    "BatchNorm",
    "MemoryWeights",
    "batch_norm_glu",
    "conv3x3",
    "conv4x4_stride2",
    "folded_conv3x3",
    "memory_read",
    "memory_write",
    "tiled_glu",
    "tiled_skip",
    "upsample_conv3x3",
    "words_similarity",
]
