"""What the kernels share: how programs are numbered; on the host how exact products are, how wide programs are, how
pixels lie.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# Programs are launched along one axis, whatever their grid: along any other, GPUs take 65,535 at most.


@triton.jit
def program_in_2d(first):
    """Place of this program in a grid of ``first`` by any number, the last in 64 bits."""
    program = tl.program_id(0)
    return program % first, (program // first).to(tl.int64)


@triton.jit
def program_in_3d(first, second):
    """Place of this program in a grid of ``first`` by ``second`` by any number, the last in 64 bits."""
    program = tl.program_id(0)
    return program % first, program // first % second, (program // first // second).to(tl.int64)


@triton.jit
def relu(x):
    """max(x, 0); NaN stays, as in PyTorch's."""
    return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)


def dot_precision() -> str:
    """``input_precision`` of products of float32: exact, unless PyTorch allows TF32 for its own and the GPU has it."""
    return _precision(torch.backends.cuda.matmul)


def convolution_precision() -> str:
    """The same of what stands for a convolution, for which PyTorch allows TF32 unless told otherwise."""
    return _precision(torch.backends.cudnn.conv)


def _precision(products: Any) -> str:
    # fp32_precision follows PyTorch's older switches; reading those raises once somebody has set a newer one.
    return "tf32" if products.fp32_precision == "tf32" and torch.version.hip is None else "ieee"


def warps_of(threads: int) -> int:
    """``num_warps`` of a program that many threads wide: AMD's warps have 64 threads, NVIDIA's 32."""
    return threads // (32 if torch.version.hip is None else 64)


def pixel_strides(x: Tensor) -> tuple[int, int, int]:
    """Strides (sample, channel, pixel) of a pixel-linear ``[B, C, H, W]``."""
    # The stride of an axis of size 1 means nothing.
    return x.stride(0), x.stride(1), x.stride(3) if x.shape[3] > 1 else x.stride(2)
