"""Evaluation on several processes: each takes every n-th chunk, sums are added up, rows are gathered in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, distributed

from dmgan_fast import parallel
from dmgan_fast.metrics.moments import FeatureMoments
from dmgan_fast.parallel import collectives


class Processes(parallel.Processes):
    """This process's place among those of ``torchrun``; alone it is 0 of 1. What is exchanged lies on the CPU."""

    def moments(self, chunks: Sequence[range], read: Callable[[range], Tensor], channels: int) -> FeatureMoments:
        """Moments of all processes' rows, on each of them."""
        moments = FeatureMoments(channels)
        for rows in self.own(chunks):
            moments.add(read(rows))
        return moments.all_reduce() if self.size > 1 else moments

    def all_rows(self, chunks: Sequence[range], read: Callable[[range], Tensor]) -> Tensor | None:
        """All rows in order on process 0, None elsewhere."""
        parts = {rows.start: read(rows) for rows in self.own(chunks)}
        if self.group is not None:
            gathered: list[dict[int, Tensor]] | None = [{}] * self.size if self.first else None
            with collectives.exchanging(self.group):
                distributed.gather_object(parts, gathered, group=self.group, group_dst=0)
            if gathered is None:
                return None
            parts = {start: values for part in gathered for start, values in part.items()}
        return torch.cat([parts[start] for start in sorted(parts)])
