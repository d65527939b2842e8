"""The halving convolution of discriminators: eager in both layouts, compiled, ours, on a GPU cuDNN's other forms."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.common import Target
from benchmarks.harness import LAYOUTS, Case
from benchmarks.ops._convolution import plain_case

case = partial(plain_case, op="conv4x4_stride2", taps=4, inputs=64, outputs=128)


def cases(target: Target) -> Iterator[Case]:
    for layout in LAYOUTS:
        yield case(target, layout=layout)


def tiny(target: Target) -> Iterator[Case]:
    yield case(target, batch=2, side=6, inputs=4, outputs=6)
