"""conv3x3: checks, custom op with fake tensors and autograd.

Float32 on a CPU runs Winograd's form (``csrc/cpu/conv3x3.cpp``) with 4/9 of the multiplications; anything else is
PyTorch's own convolution, whatever the backend: cuDNN's on a GPU. Saved for backward: the input and the weight.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dmgan_fast import reference
from dmgan_fast.ops import _backends, _checks, _convolutions

OP = "conv3x3"


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, backend: str | None = None) -> Tensor:
    _checks.shape(OP, "x", x, ("B", "I", "H", "W"))
    _checks.shape(OP, "weight", weight, ("O", x.shape[1], 3, 3))
    if bias is not None:
        _checks.shape(OP, "bias", bias, (weight.shape[0],))
    _checks.same_kind(OP, "x", {"x": x, "weight": weight, "bias": bias})
    chosen = _backends.choose(OP, backend, x)
    if chosen != "cpu" or _backends.autocast_dtype(x) != torch.float32:
        return reference.conv3x3(x, weight, bias)
    return _forward(x, weight, bias, chosen)


_forward, _backward = _convolutions.define(OP)
