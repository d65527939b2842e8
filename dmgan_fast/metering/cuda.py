"""What a GPU holds beside the tensors of a step, as far as it can be computed: blocks of PyTorch's allocator,
workspaces of cuDNN and cuBLAS.

**Not verified on a GPU.** The allocator's rounding and cuBLAS's workspace are PyTorch's constants; workspaces of cuDNN
are those of the kernels that it is known to choose, and where it tries all (``torch.backends.cudnn.benchmark``) those
of the largest that it may try.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

MiB = 1 << 20
SMALLEST = 512  # bytes: every block is a multiple
FROM_SEGMENTS = 10 * MiB  # from here on a tensor has a segment of its own,
SEGMENT = 2 * MiB  # which is a multiple of this
WASTE = MiB  # the most of it that stays with the tensor: more is given to others
CUBLAS = 32 * MiB  # of compute capability 9.0; 8.1 MiB on older ones
WINOGRAD_TILE, WINOGRAD_RESULTS = 36, 16  # numbers of a transformed tile of 3x3 convolutions, and results that it gives


def block_bytes(size: int) -> int:
    """What PyTorch's allocator takes for a tensor of so many bytes."""
    block = _multiple(size, SMALLEST)
    if block < FROM_SEGMENTS:
        return block
    segment = _multiple(size, SEGMENT)
    return segment if segment - block <= WASTE else block


def workspace_bytes(func: Any, args: Any, result: Any, by_trial: bool) -> int:
    """Of a call of an operator, held while it runs; 0 if it is no convolution.

    In channels-last, in sixteen bits, cuDNN needs none but for the gradient of a weight, which it sums in float32. In
    NCHW it makes channels-last copies of all three tensors. By trial it may run a Winograd form that writes its tiles
    out.
    """
    if func is torch.ops.aten.convolution.default:
        x, weight, y = args[0], args[1], result
        return max(_copies(x, weight, y), _tiles(x, weight, y) if by_trial else 0)
    if func is torch.ops.aten.convolution_backward.default:
        y, x, weight = args[:3]
        sums = 4 * weight.numel() if args[-1][1] and weight.itemsize < 4 else 0
        return max(_copies(x, weight, y), sums, _tiles(x, weight, y) if by_trial else 0)
    return 0


def _multiple(size: int, of: int) -> int:
    return -(-size // of) * of


def _copies(*tensors: Tensor) -> int:
    """Of those in NCHW, for kernels of tensor cores; exact products of float32 are computed where they lie, but whether
    TF32 is allowed may change later."""
    last = all(x.is_contiguous(memory_format=torch.channels_last) for x in tensors)
    return 0 if last else sum(x.nbytes for x in tensors)


def _tiles(x: Tensor, weight: Tensor, y: Tensor) -> int:
    """Transformed maps and weights of a 3x3 convolution, in float32."""
    if tuple(weight.shape[2:]) != (3, 3) or x.shape[2:] != y.shape[2:]:
        return 0
    pixels = len(x) * prod(x.shape[2:])
    maps = pixels * (x.shape[1] + y.shape[1]) * WINOGRAD_TILE // WINOGRAD_RESULTS
    return 4 * (maps + WINOGRAD_TILE * weight.shape[0] * weight.shape[1])
