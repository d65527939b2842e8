"""One file per op: argument checks and the choice of a backend."""

from dmgan_fast.ops import batch_norm_glu, memory_read, memory_write, tiled_block, upsample_conv3x3, words_similarity

__all__ = ["batch_norm_glu", "memory_read", "memory_write", "tiled_block", "upsample_conv3x3", "words_similarity"]
