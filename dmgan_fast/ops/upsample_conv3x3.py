"""Nearest ×2 + conv3×3: checks and dispatch."""

from __future__ import annotations

from torch import Tensor

from dmgan_fast.ops import _backends, _checks

OP = "upsample_conv3x3"


def upsample_conv3x3(x: Tensor, weight: Tensor, *, backend: str | None = None) -> Tensor:
    _checks.shape(OP, "x", x, ("B", "I", "H", "W"))
    _checks.shape(OP, "weight", weight, ("O", x.shape[1], 3, 3))
    _checks.same_kind(OP, "x", {"x": x, "weight": weight})
    result: Tensor = _backends.choose(OP, backend)(x, weight)
    return result
