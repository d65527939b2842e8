"""conv4x4 with stride 2: checks, custom op with fake tensors and autograd.

Float32 on a CPU runs four convolutions of 2×2 taps (``csrc/cpu/conv4x4_stride2.cpp``) with 9/16 of the multiplications,
where that is faster; anything else is PyTorch's own convolution, whatever the backend. Saved for backward: the input
and the weight.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dmgan_fast import reference
from dmgan_fast.ops import _backends, _checks, _convolutions

OP = "conv4x4_stride2"


def conv4x4_stride2(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, backend: str | None = None) -> Tensor:
    _checks.shape(OP, "x", x, ("B", "I", "H", "W"))
    _checks.shape(OP, "weight", weight, ("O", x.shape[1], 4, 4))
    if bias is not None:
        _checks.shape(OP, "bias", bias, (weight.shape[0],))
    _checks.same_kind(OP, "x", {"x": x, "weight": weight, "bias": bias})
    chosen = _backends.choose(OP, backend, x)
    even = x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0
    if chosen != "cpu" or not even or _backends.autocast_dtype(x) != torch.float32:
        return reference.conv4x4_stride2(x, weight, bias)
    return _forward(x, weight, bias, chosen)


_forward, _backward = _convolutions.define(OP, down=2)
