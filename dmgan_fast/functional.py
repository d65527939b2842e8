"""The ops as functions. Each takes ``backend="auto" | "cuda" | "triton" | "aten" | "cpu" | "reference"``; without it,
the environment variable ``DMGAN_FAST_BACKEND`` decides, else ``"auto"``. A backend asked for by name either runs or
raises ``BackendError`` with the reason.
"""

from dmgan_fast.ops.batch_norm_glu import batch_norm_glu
from dmgan_fast.ops.conv3x3 import conv3x3
from dmgan_fast.ops.conv4x4_stride2 import conv4x4_stride2
from dmgan_fast.ops.folded_conv3x3 import folded_conv3x3
from dmgan_fast.ops.memory_read import memory_read
from dmgan_fast.ops.memory_write import memory_write
from dmgan_fast.ops.tiled_glu import tiled_glu
from dmgan_fast.ops.tiled_skip import tiled_skip
from dmgan_fast.ops.upsample_conv3x3 import upsample_conv3x3
from dmgan_fast.ops.words_similarity import words_similarity

__all__ = [
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
