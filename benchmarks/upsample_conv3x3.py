"""Nearest ×2 + conv3×3: eager in NCHW and channels-last, compiled, fused; on a GPU also the identity on cuDNN."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks import work
from benchmarks.harness import LAYOUTS, Case, Target, run
from dmgan_fast import functional
from dmgan_fast.aten.upsample_conv3x3 import upsample_conv3x3_forward as identity

BATCH, CHANNELS = 4, 128


def eager(x: Tensor, weight: Tensor) -> Tensor:
    return functional.upsample_conv3x3(x, weight, backend="reference")


def eager_channels_last(x: Tensor, weight: Tensor) -> Tensor:
    layout = torch.channels_last
    return eager(x.contiguous(memory_format=layout), weight.contiguous(memory_format=layout))


def fused(backend: str, x: Tensor, weight: Tensor) -> Tensor:
    return functional.upsample_conv3x3(x, weight, backend=backend)


def case(target: Target, *, batch: int = BATCH, side: int = 64, layout: str = "NCHW") -> Case:
    """``side`` of the input; ``layout``: NCHW or channels-last."""
    x = torch.randn(batch, CHANNELS, side, side).contiguous(memory_format=LAYOUTS[layout])
    weight = torch.randn(CHANNELS, CHANNELS, 3, 3) / (9 * CHANNELS) ** 0.5
    implementations = {"authors": eager} if layout == "NCHW" else {"authors, channels-last": eager}
    implementations |= {"authors+compile": torch.compile(eager)}
    implementations |= {name: partial(fused, backend) for name, backend in target.backends().items()}
    if layout == "NCHW":
        implementations |= {"authors, channels-last inside": eager_channels_last}
    if target.device == "cuda":
        implementations |= {"identity on cuDNN": identity}  # as a transposed convolution
    return Case(
        "upsample_conv3x3",
        f"B{batch} {CHANNELS}->{CHANNELS} {side}->{2 * side} {layout}",
        target.place({"x": x, "weight": weight}),
        {},
        ("weight",),
        eager,
        implementations,
        work.upsample_conv3x3(batch, CHANNELS, CHANNELS, side**2, target.dtype.itemsize),
    )


def cases(target: Target) -> Iterator[Case]:
    for side in (64, 128):
        for layout in LAYOUTS:
            yield case(target, side=side, layout=layout)


if __name__ == "__main__":
    run({"upsample_conv3x3": cases}, __doc__ or "")
