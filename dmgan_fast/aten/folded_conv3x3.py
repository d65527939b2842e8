"""A 3×3 convolution and the batch norm after it in evaluation: in one pass where the native library runs the
convolution, else one after the other."""

from __future__ import annotations

from torch import Tensor

from dmgan_fast import layouts, native
from dmgan_fast.aten import convolutions
from dmgan_fast.aten.layout import laid_out


def folded_conv3x3_forward(
    x: Tensor,
    conv_weight: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    skip: Tensor | None,
    eps: float,
    upsample: bool,
) -> Tensor:
    kernels = native.load("cpu")
    if upsample or convolutions.crossover("conv3x3").runs_forward(x.numel() // x.shape[1], x.shape[1]):
        norm = (weight, bias, mean, var, None if skip is None else skip.contiguous())
        y = kernels.folded_conv3x3_forward(x.contiguous(), conv_weight, *norm, eps, upsample)
        return laid_out(y, layouts.memory_format(x))
    z = convolutions.forward("conv3x3", x, conv_weight)
    if skip is not None:  # of an x with one channel, say, PyTorch may choose another layout for z
        skip = layouts.dense_like(skip, z)
    found: tuple[Tensor, ...] = kernels.batch_norm_glu_forward(z, weight, bias, skip, mean, var, eps, False)
    return found[0]
