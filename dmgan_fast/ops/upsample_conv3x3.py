"""Nearest ×2 + conv3×3: checks, autocast, and the choice of a backend.

Saved for backward: the input and the weight; the up-sampled tensor never exists.
"""

from __future__ import annotations

from torch import Tensor

from dmgan_fast import reference
from dmgan_fast.contract import UPSAMPLE_CONV3X3
from dmgan_fast.ops import _backends, _convolutions


def upsample_conv3x3(x: Tensor, weight: Tensor, *, backend: str | None = None) -> Tensor:
    """Nearest ×2 up-sampling, then a 3×3 convolution with padding 1.

    Args:
        x: ``[B, I, H, W]``.
        weight: ``[O, I, 3, 3]``.
        backend: see ``dmgan_fast.functional``.

    Returns:
        ``[B, O, 2H, 2W]``.

    Raises:
        InputError: for shapes, dtypes or devices that do not fit.
        BackendError: if the backend asked for can't run.
    """
    chosen = _backends.choose(UPSAMPLE_CONV3X3, backend, x, UPSAMPLE_CONV3X3.check(x, weight))
    if chosen == "reference":
        return reference.upsample_conv3x3(x, weight)
    dtype = _backends.autocast_dtype(x)
    y: Tensor = _forward(x.to(dtype), weight.to(dtype), chosen)
    return y


_forward = _convolutions.define(UPSAMPLE_CONV3X3)
