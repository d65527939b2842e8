"""What the kernels share on the host: how exact products are, how wide programs are, how pixels lie."""

from __future__ import annotations

import torch
from torch import Tensor


def dot_precision() -> str:
    """``input_precision`` of products of float32: exact, unless PyTorch allows TF32 and the card has it."""
    return "tf32" if torch.backends.cuda.matmul.allow_tf32 and torch.version.hip is None else "ieee"


def warps_of(threads: int) -> int:
    """``num_warps`` of a program that many threads wide: AMD's warps have 64 threads, NVIDIA's 32."""
    return threads // (32 if torch.version.hip is None else 64)


def pixel_strides(x: Tensor) -> tuple[int, int, int]:
    """Strides (sample, channel, pixel) of a pixel-linear ``[B, C, H, W]``."""
    # The stride of an axis of size 1 means nothing.
    return x.stride(0), x.stride(1), x.stride(3) if x.shape[3] > 1 else x.stride(2)
