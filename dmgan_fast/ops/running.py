"""Running statistics of batch norms: each norm's own update, or those of all norms of a forward in a few kernels.

Not in the kernels that find mean and variance: PyTorch gives custom ops that change an argument no derivatives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor

from dmgan_fast.reference import BatchNorm


class _Update(NamedTuple):
    """Of a norm, to the mean and ``var * unbiased`` of a batch."""

    norm: BatchNorm
    mean: Tensor
    var: Tensor
    unbiased: float


class _Waiting:
    def __init__(self) -> None:
        self.updates: list[_Update] = []
        self.counters: list[Tensor] = []
        self.seen: set[int] = set()  # norms' running statistics and counters, by id

    def take(self, tensor: Tensor | None) -> None:
        """Before ``tensor`` is to change: what waits comes first if it changes the same."""
        if tensor is not None and id(tensor) in self.seen:
            self.finish()
        self.seen.add(id(tensor))

    def finish(self) -> None:
        updates, counters = self.updates, self.counters
        self.updates, self.counters, self.seen = [], [], set()
        _apply(updates)
        if counters:
            torch._foreach_add_(counters, 1)


_waiting: ContextVar[_Waiting | None] = ContextVar("waiting", default=None)


@contextmanager
def updated_together() -> Iterator[None]:
    """Within, running statistics and counters of batches wait; at the end a few kernels update all of them.

    For a forward, in which nothing reads them. One that fails updates none.
    """
    mine = _Waiting()
    before = _waiting.set(mine)
    try:
        yield
    finally:
        _waiting.reset(before)
    mine.finish()


def update_running(norm: BatchNorm, mean: Tensor, var: Tensor, count: float, share: Tensor | None) -> None:
    """As ``nn.BatchNorm2d``, from a biased variance over ``count / share`` values."""
    if share is None:
        update = _Update(norm, mean, var, count / (count - 1))
    else:
        update = _Update(norm, mean, (var * (count / (count - share))).detach(), 1.0)
    waiting = None if torch.compiler.is_compiling() else _waiting.get()
    if waiting is None:
        _apply([update])
        return
    waiting.take(norm.running_mean if norm.running_mean is not None else norm.running_var)
    waiting.updates.append(update)


def count_batch(counter: Tensor) -> None:
    """One more, in place."""
    waiting = None if torch.compiler.is_compiling() else _waiting.get()
    if waiting is None:
        counter.add_(1)
        return
    waiting.take(counter)
    waiting.counters.append(counter)


@torch.no_grad()
def _apply(updates: Sequence[_Update]) -> None:
    if not updates:
        return
    unbiased = torch._foreach_mul([each.var for each in updates], [each.unbiased for each in updates])
    pairs = [(each.norm.momentum, each.norm.running_mean, each.mean) for each in updates]
    pairs += [(each.norm.momentum, each.norm.running_var, var) for each, var in zip(updates, unbiased, strict=True)]
    by_momentum: dict[float, tuple[list[Tensor], list[Tensor]]] = {}
    for momentum, running, value in pairs:
        if running is not None:
            kept, values = by_momentum.setdefault(momentum, ([], []))
            kept.append(running)
            values.append(value.to(running.dtype))
    for momentum, (kept, values) in by_momentum.items():
        torch._foreach_lerp_(kept, values, momentum)
