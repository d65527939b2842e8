"""Images whose rows lie on several processes, in their order: what a convolution sees of its neighbours' rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dmgan_fast.parallel.collectives import AbsentGroup, exchanging, gather_rows, total

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

FIRST = 64  # the smallest resolution: its rows are divided, and those of a higher one in the same places


@dataclass(frozen=True)
class RowSplit:
    """This process's rows of its images, which ``size`` processes hold together.

    ``group``: those that hold the same images, in the order of their rows. ``peers``: those that hold the same rows of
    other images.
    """

    group: ProcessGroup
    peers: ProcessGroup

    @property
    def size(self) -> int:
        """How many processes hold an image."""
        return self.group.size()

    def of(self, side: int) -> slice:
        """The rows of an image of ``side`` rows, a multiple of 64."""
        return self._bounds(side)[self.group.rank()]

    def count(self, side: int) -> int:
        """How many rows that are."""
        own = self.of(side)
        return int(own.stop - own.start)

    def _bounds(self, side: int) -> list[slice]:
        scale, size = side // FIRST, self.size
        places = [scale * (FIRST * rank // size) for rank in range(size + 1)]
        return [slice(*pair) for pair in pairwise(places)]

    @classmethod
    def planned(cls, size: int) -> RowSplit:
        """Of processes that need not be there: this one, between others where there are three, has the most rows."""
        counts = [FIRST * (rank + 1) // size - FIRST * rank // size for rank in range(size)]
        most = [rank for rank, count in enumerate(counts) if count == max(counts)]
        group: Any = AbsentGroup(most[len(most) // 2], size)
        peers: Any = AbsentGroup(0, 1)
        return cls(group, peers)

    def own(self, images: Sequence[Tensor]) -> list[Tensor]:
        """This process's rows of whole images ``[B, 3, S, S]``: views."""
        return [image[:, :, self.of(image.shape[2])] for image in images]

    def whole(self, own: Tensor) -> Tensor:
        """Whole maps ``[B, C, S, S]`` from each process's rows ``[B, C, s, S]``.

        All of ``group`` compute the same from them, each a ``size``-th of the loss: so the gradient of a process's rows
        is ``size`` times what it finds itself.
        """
        result: Tensor = _Whole.apply(own, self)
        return result


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, rows: RowSplit) -> Tensor:
        bounds = rows._bounds(own.shape[3])
        ctx.rows, ctx.size = bounds[rows.group.rank()], rows.size
        sizes = [each.stop - each.start for each in bounds]
        return gather_rows(own.transpose(0, 2), sizes, rows.group).transpose(0, 2).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return grad[:, :, ctx.rows] * ctx.size, None


def with_halo(x: Tensor, group: ProcessGroup, beyond: int = 0) -> Tensor:
    """``[B, C, h, W]`` → ``[B, C, h + 2, W]``: one more row on each side, the neighbours' or zeros beyond the image.

    Gradients of these rows go back to the processes that they came from. ``beyond``: so many rows of zeros more.
    """
    rows: Tensor = _Halo.apply(x, group, beyond)
    return rows


def halved(op: Callable[[Tensor], Tensor], x: Tensor, group: ProcessGroup) -> Tensor:
    """``op(x)``, a convolution 4×4 with stride 2 and padding 1, of an even number of rows ``[B, C, h, W]`` of an image.

    Windows begin at every second row, so that one more row of zeros keeps them where they are in the whole image.
    """
    return op(with_halo(x, group, beyond=1))[:, :, 1:-1]


def mean_over_all(mean: Tensor, rows: int, group: ProcessGroup) -> Tensor:
    """From each process's mean over its ``rows`` of an image: that over the whole."""
    return total(mean * rows, group) / total(mean.new_tensor(float(rows)), group)


def _neighbours(first: Tensor, last: Tensor, group: ProcessGroup) -> tuple[Tensor, Tensor]:
    """The last rows of the process before and the first rows of the one after; zeros where there is none."""
    from torch import distributed

    first, last = first.contiguous(), last.contiguous()
    before, after = torch.zeros_like(last), torch.zeros_like(first)
    if isinstance(group, AbsentGroup):
        return before, after
    exchanges = []
    for place, given, taken in ((group.rank() - 1, first, before), (group.rank() + 1, last, after)):
        if 0 <= place < group.size():
            peer = distributed.get_global_rank(group, place)
            exchanges.append(distributed.P2POp(distributed.isend, given, peer, group))
            exchanges.append(distributed.P2POp(distributed.irecv, taken, peer, group))
    with exchanging(group):
        for work in distributed.batch_isend_irecv(exchanges) if exchanges else ():
            work.wait()
    return before, after


class _Halo(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup, beyond: int) -> Tensor:
        ctx.group, ctx.beyond = group, beyond
        before, after = _neighbours(x[:, :, :1], x[:, :, -1:], group)
        zeros = [x.new_zeros((*x.shape[:2], beyond, x.shape[3]))] if beyond else []
        return torch.cat((*zeros, before, x, after, *zeros), 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        grad = grad[:, :, ctx.beyond : grad.shape[2] - ctx.beyond]
        own = grad[:, :, 1:-1].clone()
        of_first, of_last = _neighbours(grad[:, :, :1], grad[:, :, -1:], ctx.group)
        own[:, :, :1] += of_first
        own[:, :, -1:] += of_last
        return own, None, None
