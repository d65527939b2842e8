"""conv3×3 and the batch norm after it in evaluation: checks, and the choice of a backend.

Float32 on a CPU runs a kernel (``csrc/cpu/folded_conv3x3.cpp``) whose normalised feature map never reaches memory;
anything else runs the two ops. For generating images: the kernel has no derivatives.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from dmgan_fast.contract import FOLDED_CONV3X3
from dmgan_fast.errors import require, require_flags
from dmgan_fast.ops import _backends, _custom_op
from dmgan_fast.ops.batch_norm_glu import batch_norm_glu, check_norm
from dmgan_fast.ops.conv3x3 import conv3x3
from dmgan_fast.ops.upsample_conv3x3 import upsample_conv3x3
from dmgan_fast.reference import BatchNorm


def folded_conv3x3(
    x: Tensor,
    conv_weight: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    skip: Tensor | None = None,
    *,
    upsample: bool = False,
    eps: float = 1e-5,
    backend: str | None = None,
) -> Tensor:
    """conv3×3 with padding 1, then ``batch_norm_glu(..., training=False)``, in one pass over memory.

    Args:
        x: ``[B, I, H, W]``.
        conv_weight: ``[O, I, 3, 3]``.
        weight, bias: of the batch norm, ``[O]`` or None.
        running_mean, running_var: its statistics ``[O]``.
        skip: ``[B, K, H, W]``, K a divisor of O: the result is normalised + O / K copies of it; None: a GLU.
        upsample: convolve x up-sampled to twice its height and width (nearest). Not with ``skip``.
        eps: of the batch norm.
        backend: see ``dmgan_fast.functional``.

    Returns:
        ``[B, O / 2, H, W]`` or ``[B, O / 2, 2H, 2W]``; with ``skip`` ``[B, O, H, W]``.

    Raises:
        InputError: for shapes, dtypes or devices that do not fit.
        BackendError: if the backend asked for can't run, or in backward.
    """
    norm = BatchNorm(weight, bias, running_mean, running_var, training=False, momentum=0.0, eps=eps)
    sizes, outputs = FOLDED_CONV3X3.check(x, conv_weight, *norm[:4], skip), conv_weight.shape[0]
    require_flags("folded_conv3x3", upsample=upsample)
    require(not (upsample and skip is not None), "folded_conv3x3: skip goes without upsample")
    require(
        outputs % 2 == 0 or skip is not None,
        lambda: f"folded_conv3x3: conv_weight must have an even number of result channels, got {outputs}",
    )
    check_norm("folded_conv3x3", norm, x, outputs, sizes.get("K", 1), x.numel())
    chosen = _backends.choose(FOLDED_CONV3X3, backend, x, sizes)
    if chosen == "cpu" and x.dtype == _backends.autocast_dtype(x) == torch.float32:
        return cast(Tensor, _forward(x, conv_weight, *norm[:4], skip, eps, upsample, chosen))
    z = (upsample_conv3x3 if upsample else conv3x3)(x, conv_weight, backend=backend)
    return cast(Tensor, batch_norm_glu(z, *norm[:4], skip=skip, training=False, eps=eps, backend=backend))


_forward = _custom_op.CustomOp(FOLDED_CONV3X3)
_forward.refuse_derivatives()
