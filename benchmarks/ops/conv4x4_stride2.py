"""The halving convolution of discriminators: eager in both layouts, compiled, ours, on a GPU cuDNN's other forms."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.common import Target
from benchmarks.harness import LAYOUTS, Case
from benchmarks.ops import cudnn, work
from benchmarks.ops._convolution import authors, case_of
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
    implementations = authors(eager, layout) | {"dmgan_fast": partial(functional.conv4x4_stride2)}
    if target.device == "cuda":
        implementations |= cudnn.forms(eager, layout, stride=2)
    counted = work.conv4x4_stride2(batch, inputs, outputs, (side // 2) ** 2, target.dtype.itemsize)
    sizes = (batch, inputs, outputs, side, 4)
    return case_of(target, "conv4x4_stride2", sizes, f"{side}->{side // 2}", layout, eager, implementations, counted)


def cases(target: Target) -> Iterator[Case]:
    for layout in LAYOUTS:
        yield case(target, layout=layout)


def tiny(target: Target) -> Iterator[Case]:
    yield case(target, batch=2, side=6, inputs=4, outputs=6)
