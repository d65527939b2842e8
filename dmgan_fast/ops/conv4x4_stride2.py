"""conv4x4 with stride 2: checks, and the choice of a backend.

Float32 on a CPU runs four convolutions of 2×2 taps (``csrc/cpu/conv4x4_stride2.cpp``) with 9/16 of the multiplications,
where that is faster; anything else is PyTorch's own convolution, whatever the backend. Saved for backward: the input
and the weight.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dmgan_fast import reference
from dmgan_fast.contract import CONV4X4_STRIDE2
from dmgan_fast.errors import require
from dmgan_fast.ops import _backends, _convolutions


def conv4x4_stride2(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, backend: str | None = None) -> Tensor:
    """4×4 convolution with stride 2 and padding 1. Float32 on CPUs takes 9 products for 16 where that is faster; the
    rest is PyTorch's own kernels.

    Args:
        x: ``[B, I, H, W]``, resolutions of 2 pixels or more.
        weight: ``[O, I, 4, 4]``.
        bias: ``[O]`` or None.
        backend: see ``dmgan_fast.functional``.

    Returns:
        ``[B, O, H // 2, W // 2]``.

    Raises:
        InputError: for shapes, dtypes or devices that do not fit.
        BackendError: if the backend asked for can't run.
    """
    sizes = CONV4X4_STRIDE2.check(x, weight, bias)
    require(
        min(x.shape[2:]) >= 2,
        lambda: f"conv4x4_stride2: x must be at least 2 pixels high and wide, got {list(x.shape)}",
    )
    chosen = _backends.choose(CONV4X4_STRIDE2, backend, x, sizes)
    even = x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0
    if chosen != "cpu" or not even or _backends.autocast_dtype(x) != torch.float32:
        return reference.conv4x4_stride2(x, weight, bias)
    y: Tensor = _forward(x, weight, bias, chosen)
    return y


_forward = _convolutions.define(CONV4X4_STRIDE2)
