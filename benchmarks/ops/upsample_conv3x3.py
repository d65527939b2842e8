"""Nearest ×2 + conv3×3: eager in NCHW and channels-last, compiled, fused; on a GPU also the identity on cuDNN."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.common import Target
from benchmarks.harness import LAYOUTS, Case, ours
from benchmarks.ops import work
from dmgan_fast import functional
from dmgan_fast.aten.upsample_conv3x3 import upsample_conv3x3_forward as identity

BATCH, CHANNELS = 4, 128

eager = partial(functional.upsample_conv3x3, backend="reference")


def eager_channels_last(x: Tensor, weight: Tensor) -> Tensor:
    layout = torch.channels_last
    return eager(x.contiguous(memory_format=layout), weight.contiguous(memory_format=layout))


def case(target: Target, *, batch: int = BATCH, side: int = 64, layout: str = "NCHW", channels: int = CHANNELS) -> Case:
    """``side`` of the input; ``layout``: NCHW or channels-last."""
    x = torch.randn(batch, channels, side, side).contiguous(memory_format=LAYOUTS[layout])
    weight = torch.randn(channels, channels, 3, 3) / (9 * channels) ** 0.5
    implementations = {"authors": eager} if layout == "NCHW" else {"authors, channels-last": eager}
    implementations |= {"authors+compile": torch.compile(eager)} | ours(target, functional.upsample_conv3x3)
    if layout == "NCHW":
        implementations |= {"authors, channels-last inside": eager_channels_last}
    if target.device == "cuda":
        implementations |= {"identity on cuDNN": identity}  # as a transposed convolution
    return Case(
        "upsample_conv3x3",
        f"B{batch} {channels}->{channels} {side}->{2 * side} {layout}",
        target.place({"x": x, "weight": weight}),
        {},
        ("weight",),
        eager,
        implementations,
        work.upsample_conv3x3(batch, channels, channels, side**2, target.dtype.itemsize),
    )


def cases(target: Target) -> Iterator[Case]:
    for side in (64, 128):
        for layout in LAYOUTS:
            yield case(target, side=side, layout=layout)
