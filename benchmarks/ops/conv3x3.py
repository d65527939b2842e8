"""conv3x3 of the residual blocks: eager in both layouts, compiled, ours, and on a GPU cuDNN's other forms."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.common import Target
from benchmarks.harness import LAYOUTS, Case
from benchmarks.ops import cudnn, work
from dmgan_fast import functional

BATCH, INPUTS, OUTPUTS = 4, 128, 256

eager = partial(functional.conv3x3, backend="reference")


def case(
    target: Target,
    *,
    batch: int = BATCH,
    side: int = 64,
    layout: str = "NCHW",
    inputs: int = INPUTS,
    outputs: int = OUTPUTS,
) -> Case:
    """The first convolution of a residual block; ``layout``: NCHW or channels-last."""
    x = torch.randn(batch, inputs, side, side).contiguous(memory_format=LAYOUTS[layout])
    weight = torch.randn(outputs, inputs, 3, 3) / (9 * inputs) ** 0.5
    implementations = {"authors" if layout == "NCHW" else "authors, channels-last": eager}
    implementations |= {"authors+compile": torch.compile(eager), "dmgan_fast": partial(functional.conv3x3)}
    if target.device == "cuda":
        implementations |= cudnn.forms(eager, layout)
    return Case(
        "conv3x3",
        f"B{batch} {inputs}->{outputs} {side}x{side} {layout}",
        target.place({"x": x, "weight": weight}),
        {},
        ("weight",),
        eager,
        implementations,
        work.conv3x3(batch, inputs, outputs, side**2, target.dtype.itemsize),
    )


def cases(target: Target) -> Iterator[Case]:
    for side in (64, 128):
        for layout in LAYOUTS:
            yield case(target, side=side, layout=layout)


def tiny(target: Target) -> Iterator[Case]:
    yield case(target, batch=2, side=5, inputs=4, outputs=6)
