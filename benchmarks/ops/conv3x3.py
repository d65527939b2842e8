"""conv3x3 of the residual blocks: eager in both layouts, compiled, ours, and on a GPU cuDNN's other forms."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.common import Target
from benchmarks.harness import LAYOUTS, Case
from benchmarks.ops import cudnn, work
from benchmarks.ops._convolution import authors, case_of
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
    implementations = authors(eager, layout) | {"dmgan_fast": partial(functional.conv3x3)}
    if target.device == "cuda":
        implementations |= cudnn.forms(eager, layout)
    counted = work.conv3x3(batch, inputs, outputs, side**2, target.dtype.itemsize)
    sizes = (batch, inputs, outputs, side, 3)
    return case_of(target, "conv3x3", sizes, f"{side}x{side}", layout, eager, implementations, counted)


def cases(target: Target) -> Iterator[Case]:
    for side in (64, 128):
        for layout in LAYOUTS:
            yield case(target, side=side, layout=layout)


def tiny(target: Target) -> Iterator[Case]:
    yield case(target, batch=2, side=5, inputs=4, outputs=6)
