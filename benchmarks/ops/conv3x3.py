"""conv3x3 of the residual blocks: eager in both layouts, compiled, ours (on a GPU that is cuDNN's: nothing to time)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.common import Target
from benchmarks.harness import LAYOUTS, Case, ours
from benchmarks.ops import work
from dmgan_fast import functional

BATCH, INPUTS, OUTPUTS = 4, 128, 256

eager = partial(functional.conv3x3, backend="reference")


def case(target: Target, *, batch: int = BATCH, side: int = 64, layout: str = "NCHW") -> Case:
    """The first convolution of a residual block; ``layout``: NCHW or channels-last."""
    x = torch.randn(batch, INPUTS, side, side).contiguous(memory_format=LAYOUTS[layout])
    weight = torch.randn(OUTPUTS, INPUTS, 3, 3) / (9 * INPUTS) ** 0.5
    return Case(
        "conv3x3",
        f"B{batch} {INPUTS}->{OUTPUTS} {side}x{side} {layout}",
        target.place({"x": x, "weight": weight}),
        {},
        ("weight",),
        eager,
        {"authors" if layout == "NCHW" else "authors, channels-last": eager}
        | {"authors+compile": torch.compile(eager)}
        | ours(target, functional.conv3x3),
        work.conv3x3(batch, INPUTS, OUTPUTS, side**2, target.dtype.itemsize),
    )


def cases(target: Target) -> Iterator[Case]:
    if target.device == "cpu":
        for side in (64, 128):
            for layout in LAYOUTS:
                yield case(target, side=side, layout=layout)
