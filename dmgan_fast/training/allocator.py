"""Memory that PyTorch frees on a CPU, kept by the process: a training step takes the same tensors again and again.

By default glibc gives every large block back to the system, which hands it out again page by page, zeroed: a quarter of
a training step's CPU time at 256².
"""

from __future__ import annotations

import ctypes
import sys

# Parameters of mallopt(3).
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let glibc's malloc keep what is freed, for the whole process; False where the C library is another one."""
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, NEVER))
