"""Nearest ×2 + conv3×3: checks, custom op with fake tensors and autograd, autocast.

Saved for backward: the input and the weight; the up-sampled tensor never exists.
"""

from __future__ import annotations

from torch import Tensor

from dmgan_fast import reference
from dmgan_fast.ops import _backends, _checks, _convolutions

OP = "upsample_conv3x3"


def upsample_conv3x3(x: Tensor, weight: Tensor, *, backend: str | None = None) -> Tensor:
    _checks.shape(OP, "x", x, ("B", "I", "H", "W"))
    _checks.shape(OP, "weight", weight, ("O", x.shape[1], 3, 3))
    _checks.same_kind(OP, "x", {"x": x, "weight": weight})
    chosen = _backends.choose(OP, backend, x)
    if chosen == "reference":
        return reference.upsample_conv3x3(x, weight)
    dtype = _backends.autocast_dtype(x)
    return _forward(x.to(dtype), weight.to(dtype), None, chosen)


_forward, _backward = _convolutions.define(OP, up=2)
