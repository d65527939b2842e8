"""A batch that processes hold together: each has some rows, and the next process has the rows that follow."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from dmgan_fast.parallel import collectives

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class Share(NamedTuple):
    """This process's rows of a batch. ``sizes``: rows of each process; they may differ, and none is 0."""

    group: ProcessGroup
    sizes: tuple[int, ...]

    @property
    def total(self) -> int:
        """Rows of all processes."""
        return sum(self.sizes)

    @property
    def rows(self) -> slice:
        """Of this process."""
        rank = self.group.rank()
        first = sum(self.sizes[:rank])
        return slice(first, first + self.sizes[rank])

    def gather(self, own: Tensor) -> Tensor:
        """Rows of all processes. Each process may use them in its own way: their gradients add up."""
        rows: Tensor = collectives.RowsForAll.apply(own, self.sizes, self.group)
        return rows

    def gather_alike(self, own: Tensor) -> Tensor:
        """Rows of all processes, from which all compute the same; a process gets its own rows' gradient."""
        rows: Tensor = collectives.RowsAlike.apply(own, self.sizes, self.group)
        return rows

    def total_of(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Sums over the processes, of numbers that every process has some of."""
        sums = collectives.gather(torch.stack([value.detach() for value in values.values()]), self.group).sum(0)
        return dict(zip(values, sums.unbind(), strict=True))

    def random(self, channels: int, like: Tensor) -> Tensor:
        """This process's rows of ``randn [total, channels]``, drawn by all and taken from the first."""
        from torch import distributed

        whole = torch.randn(self.total, channels, device=like.device, dtype=like.dtype)
        with collectives.exchanging(self.group):
            distributed.broadcast(whole, group=self.group, group_src=0)
        return whole[self.rows]
