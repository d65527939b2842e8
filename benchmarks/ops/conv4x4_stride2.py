"""The halving convolution of discriminators: eager in both layouts, compiled, ours, on a GPU cuDNN's other forms."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.common import Target
from benchmarks.harness import LAYOUTS, Case
from benchmarks.ops import cudnn, work
from dmgan_fast import functional

BATCH, INPUTS, OUTPUTS = 4, 64, 128

eager = partial(functional.conv4x4_stride2, backend="reference")


def case(
    target: Target,
    *,
    batch: int = BATCH,
    side: int = 64,
    layout: str = "NCHW",
    inputs: int = INPUTS,
    outputs: int = OUTPUTS,
) -> Case:
    """``side`` of the input; ``layout``: NCHW or channels-last."""
    x = torch.randn(batch, inputs, side, side).contiguous(memory_format=LAYOUTS[layout])
    weight = torch.randn(outputs, inputs, 4, 4) / (16 * inputs) ** 0.5
    implementations = {"authors" if layout == "NCHW" else "authors, channels-last": eager}
    implementations |= {"authors+compile": torch.compile(eager), "dmgan_fast": partial(functional.conv4x4_stride2)}
    if target.device == "cuda":
        implementations |= cudnn.forms(eager, layout, stride=2)
    return Case(
        "conv4x4_stride2",
        f"B{batch} {inputs}->{outputs} {side}->{side // 2} {layout}",
        target.place({"x": x, "weight": weight}),
        {},
        ("weight",),
        eager,
        implementations,
        work.conv4x4_stride2(batch, inputs, outputs, (side // 2) ** 2, target.dtype.itemsize),
    )


def cases(target: Target) -> Iterator[Case]:
    for layout in LAYOUTS:
        yield case(target, layout=layout)


def tiny(target: Target) -> Iterator[Case]:
    yield case(target, batch=2, side=6, inputs=4, outputs=6)
