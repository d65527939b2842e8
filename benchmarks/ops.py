"""Every op's benchmark, one after the other."""

from __future__ import annotations

from benchmarks import batch_norm_glu, conv3x3, memory_path, upsample_conv3x3, words_similarity
from benchmarks.harness import run

BENCHMARKS = {
    "memory_path": memory_path.cases,
    "batch_norm_glu": batch_norm_glu.cases,
    "conv3x3": conv3x3.cases,
    "upsample_conv3x3": upsample_conv3x3.cases,
    "words_similarity": words_similarity.cases,
}

if __name__ == "__main__":
    run(BENCHMARKS, __doc__ or "")
