"""conv3x3: checks, and the choice of a backend.

Float32 on a CPU runs Winograd's form (``csrc/cpu/conv3x3.cpp``) with 4/9 of the multiplications; anything else is
PyTorch's own convolution, whatever the backend: cuDNN's on a GPU. Saved for backward: the input and the weight.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dmgan_fast import reference
from dmgan_fast.contract import CONV3X3
from dmgan_fast.ops import _backends, _convolutions


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, backend: str | None = None) -> Tensor:
    """3×3 convolution with padding 1. Float32 on CPUs is Winograd's form where that is faster; the rest
    is PyTorch's own kernels.

    Args:
        x: ``[B, I, H, W]``.
        weight: ``[O, I, 3, 3]``.
        bias: ``[O]`` or None.
        backend: see ``dmgan_fast.functional``.

    Returns:
        ``[B, O, H, W]``.

    Raises:
        InputError: for shapes, dtypes or devices that do not fit.
        BackendError: if the backend asked for can't run.
    """
    chosen = _backends.choose(CONV3X3, backend, x, CONV3X3.check(x, weight, bias))
    if chosen != "cpu" or _backends.autocast_dtype(x) != torch.float32:
        return reference.conv3x3(x, weight, bias)
    y: Tensor = _forward(x, weight, bias, chosen)
    return y


_forward = _convolutions.define(CONV3X3)
