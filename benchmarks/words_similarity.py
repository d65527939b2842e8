"""Words similarity of all pictures and captions: the authors' loop, the plain vectorised reference, fused."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks import authors, work
from benchmarks.harness import Case, Target, run
from dmgan_fast import functional

CHANNELS, SIDE, WORDS = 256, 17, 18
GAMMAS = {"gamma1": 4.0, "gamma2": 5.0}


def loop(regions: Tensor, words: Tensor, lengths: Tensor) -> Tensor:
    return authors.words_similarity(regions, words, lengths.tolist(), **GAMMAS)


def reference(regions: Tensor, words: Tensor, lengths: Tensor) -> Tensor:
    return functional.words_similarity(regions, words, lengths, **GAMMAS, backend="reference")


def fused(backend: str, regions: Tensor, words: Tensor, lengths: Tensor) -> Tensor:
    return functional.words_similarity(regions, words, lengths, **GAMMAS, backend=backend)


def case(target: Target, *, batch: int = 16, words: int = WORDS) -> Case:
    inputs = {"regions": torch.randn(batch, CHANNELS, SIDE, SIDE), "words": torch.randn(batch, CHANNELS, words)}
    return Case(
        "words_similarity",
        f"B{batch} T{words} D{CHANNELS} {SIDE}x{SIDE}",
        target.place({name: x * CHANNELS**-0.25 for name, x in inputs.items()}),
        {"lengths": torch.full((batch,), words, device=target.device)},
        (),
        reference,
        {
            "authors": loop,
            "reference": reference,
            **{name: partial(fused, backend) for name, backend in target.backends().items()},
        },
        work.words_similarity(batch, words, CHANNELS, SIDE**2, target.dtype.itemsize),
    )


def cases(target: Target) -> Iterator[Case]:
    for batch in (16, 32, 64):
        yield case(target, batch=batch)


if __name__ == "__main__":
    run({"words_similarity": cases}, __doc__ or "")
