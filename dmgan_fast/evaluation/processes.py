"""Evaluation on several processes: each takes every n-th chunk, sums are added up, rows are gathered in order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed

from dmgan_fast.metrics.moments import FeatureMoments


@dataclass(frozen=True)
class Processes:
    """This process's place among those of ``torchrun``; alone it is 0 of 1."""

    rank: int = 0
    size: int = 1

    @classmethod
    @contextmanager
    def joined(cls) -> Iterator[Processes]:
        """Join the processes that ``torchrun`` started; without it, nothing happens.

        Only sums and features on the CPU are exchanged, so the backend is gloo on every machine.
        """
        if distributed.is_initialized():
            yield cls(distributed.get_rank(), distributed.get_world_size())
        elif int(os.environ.get("WORLD_SIZE", "1")) > 1:
            distributed.init_process_group("gloo")
            try:
                yield cls(distributed.get_rank(), distributed.get_world_size())
            finally:
                distributed.destroy_process_group()
        else:
            yield cls()

    def own(self, chunks: Sequence[range]) -> Sequence[range]:
        """The chunks of this process."""
        return chunks[self.rank :: self.size]

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            distributed.barrier()

    def from_first(self, result: dict[str, Any]) -> dict[str, Any]:
        """What process 0 has, on all of them."""
        held = [result]
        if self.size > 1:
            distributed.broadcast_object_list(held)
        return held[0]

    def moments(self, chunks: Sequence[range], read: Callable[[range], Tensor], channels: int) -> FeatureMoments:
        """Moments of all processes' rows, on each of them."""
        moments = FeatureMoments(channels)
        for rows in self.own(chunks):
            moments.add(read(rows))
        return moments.all_reduce() if self.size > 1 else moments

    def rows(self, chunks: Sequence[range], read: Callable[[range], Tensor]) -> Tensor | None:
        """All rows in order on process 0, None elsewhere."""
        parts = {rows.start: read(rows) for rows in self.own(chunks)}
        if self.size > 1:
            gathered: list[dict[int, Tensor] | None] | None = [None] * self.size if self.rank == 0 else None
            distributed.gather_object(parts, gathered)
            if gathered is None:
                return None
            parts = {start: values for part in gathered if part for start, values in part.items()}
        return torch.cat([parts[start] for start in sorted(parts)])
