"""The first convolution of residual blocks: eager in both layouts, compiled, ours, and on a GPU cuDNN's other forms."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.common import Target
from benchmarks.harness import LAYOUTS, Case
from benchmarks.ops._convolution import plain_case

case = partial(plain_case, op="conv3x3", taps=3, inputs=128, outputs=256)


def cases(target: Target) -> Iterator[Case]:
    for side in (64, 128):
        for layout in LAYOUTS:
            yield case(target, side=side, layout=layout)


def tiny(target: Target) -> Iterator[Case]:
    yield case(target, batch=2, side=5, inputs=4, outputs=6)
