"""Words similarity of all images and captions: the authors' loop, the plain vectorised reference, fused."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks import authors
from benchmarks.common import Target
from benchmarks.harness import Case, ours
from benchmarks.ops import work
from dmgan_fast import functional

CHANNELS, SIDE, WORDS = 256, 17, 18
GAMMAS = {"gamma1": 4.0, "gamma2": 5.0}

reference = partial(functional.words_similarity, **GAMMAS, backend="reference")


def loop(regions: Tensor, words: Tensor, lengths: Tensor) -> Tensor:
    return authors.words_similarity(regions, words, lengths.tolist(), **GAMMAS)


def case(target: Target, *, batch: int = 16, words: int = WORDS, channels: int = CHANNELS) -> Case:
    inputs = {"regions": torch.randn(batch, channels, SIDE, SIDE), "words": torch.randn(batch, channels, words)}
    return Case(
        "words_similarity",
        f"B{batch} T{words} D{channels} {SIDE}x{SIDE}",
        target.place({name: x * channels**-0.25 for name, x in inputs.items()}),
        {"lengths": torch.full((batch,), words, device=target.device)},
        (),
        reference,
        {"authors": loop, "reference": reference, **ours(target, functional.words_similarity, **GAMMAS)},
        work.words_similarity(batch, words, channels, SIDE**2, target.dtype.itemsize),
    )


def cases(target: Target) -> Iterator[Case]:
    for batch in (16, 32, 64):
        yield case(target, batch=batch)


def tiny(target: Target) -> Iterator[Case]:
    yield case(target, batch=3, words=4, channels=8)
