"""Nearest ×2 + conv3×3: eager in NCHW and channels-last, compiled, fused; on a GPU also identities on cuDNN."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common import Target
from benchmarks.harness import LAYOUTS, Case, ours
from benchmarks.ops import cudnn, work
from benchmarks.ops._convolution import authors, case_of
from dmgan_fast import functional
from dmgan_fast.aten.upsample_conv3x3 import spread

BATCH, CHANNELS = 4, 128

eager = partial(functional.upsample_conv3x3, backend="reference")


def transposed(x: Tensor, weight: Tensor) -> Tensor:
    """As one transposed convolution with the summed 4×4 kernel."""
    return F.conv_transpose2d(x, spread(weight), stride=2, padding=1)


def by_trial(x: Tensor, weight: Tensor) -> Tensor:
    """The same, with kernels that cuDNN chose by trial."""
    return cudnn.by_trial(x, spread(weight), stride=2, transposed=True)


def by_parity(x: Tensor, weight: Tensor) -> Tensor:
    """As one 2×2 convolution for each parity of the result's rows and columns."""
    wide, (batch, _, height, width) = spread(weight).transpose(0, 1).flip(2, 3), x.shape
    padded = F.pad(x, (1, 1, 1, 1))
    quarters = [
        F.conv2d(padded[:, :, i : i + height + 1, j : j + width + 1], wide[:, :, i::2, j::2])
        for i in range(2)
        for j in range(2)
    ]
    y = torch.stack(quarters, 4).unflatten(4, (2, 2))  # [B, O, H, W, parity of row, of column]
    return y.permute(0, 1, 2, 4, 3, 5).reshape(batch, -1, 2 * height, 2 * width)


def case(target: Target, *, batch: int = BATCH, side: int = 64, layout: str = "NCHW", channels: int = CHANNELS) -> Case:
    """``side`` of the input; ``layout``: NCHW or channels-last."""
    implementations = authors(eager, layout) | ours(target, functional.upsample_conv3x3)
    if layout == "NCHW":
        implementations |= {"authors, channels-last inside": cudnn.channels_last_inside(eager)}
    if target.device == "cuda":
        implementations |= {"identity on cuDNN": transposed, "identity on cuDNN, by parity": by_parity}
        implementations |= {"identity on cuDNN, by trial": by_trial}
    counted = work.upsample_conv3x3(batch, channels, channels, side**2, target.dtype.itemsize)
    sizes, shown = (batch, channels, channels, side, 3), f"{side}->{2 * side}"
    return case_of(target, "upsample_conv3x3", sizes, shown, layout, eager, implementations, counted)


def cases(target: Target) -> Iterator[Case]:
    for side in (64, 128):
        for layout in LAYOUTS:
            yield case(target, side=side, layout=layout)


def tiny(target: Target) -> Iterator[Case]:
    yield case(target, batch=2, side=4, channels=6)
