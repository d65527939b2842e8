"""The ops as functions. Each takes ``backend="auto" | "cuda" | "triton" | "aten" | "cpu" | "reference"``; without it,
the environment variable ``DMGAN_FAST_BACKEND`` decides, else ``"auto"``. A backend asked for by name either runs or
raises ``BackendError`` with the reason.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dmgan_fast.ops.batch_norm_glu import batch_norm_glu
from dmgan_fast.ops.conv3x3 import conv3x3
from dmgan_fast.ops.conv4x4_stride2 import conv4x4_stride2
from dmgan_fast.ops.folded_conv3x3 import folded_conv3x3
from dmgan_fast.ops.memory_read import memory_read
from dmgan_fast.ops.memory_write import memory_write
from dmgan_fast.ops.upsample_conv3x3 import upsample_conv3x3
from dmgan_fast.ops.words_similarity import words_similarity

if TYPE_CHECKING:
    from dmgan_fast.ops.tiled_glu import tiled_glu
    from dmgan_fast.ops.tiled_skip import tiled_skip

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


def __getattr__(name: str) -> Any:
    """The ops in tiles, which few use, register their custom ops when they are first needed."""
    if name not in ("tiled_glu", "tiled_skip"):
        raise AttributeError(f"module 'dmgan_fast.functional' has no attribute {name!r}")
    op = globals()[name] = getattr(import_module(f"dmgan_fast.ops.{name}"), name)
    return op


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
