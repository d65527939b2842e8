"""One benchmark a file: ``cases(target)`` gives those of the op, ``tiny(target)`` small ones, ``case`` makes one of
other sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks.common import Target
from benchmarks.harness import Case
from benchmarks.ops import (
    batch_norm_glu,
    conv3x3,
    conv4x4_stride2,
    memory_path,
    upsample_conv3x3,
    words_similarity,
)

MODULES = (memory_path, batch_norm_glu, conv3x3, conv4x4_stride2, upsample_conv3x3, words_similarity)
BENCHMARKS: dict[str, Callable[[Target], Iterator[Case]]] = {
    module.__name__.rpartition(".")[2]: module.cases for module in MODULES
}


def all_cases(target: Target) -> Iterator[Case]:
    """The cases of every benchmark, one at a time: their tensors are large."""
    for cases in BENCHMARKS.values():
        yield from cases(target)


def tiny_cases(target: Target) -> Iterator[Case]:
    """One small case of every op, to try a command; nothing is compiled."""
    for module in MODULES:
        for case in module.tiny(target):
            case.implementations = {k: f for k, f in case.implementations.items() if "compile" not in k}
            yield case
