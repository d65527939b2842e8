"""Images whose rows lie on several processes, in their order: what a 3×3 convolution sees of its neighbours' rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dmgan_fast.parallel.collectives import exchanging, total

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def with_halo(x: Tensor, group: ProcessGroup) -> Tensor:
    """``[B, C, h, W]`` → ``[B, C, h + 2, W]``: one more row on each side, the neighbours' or zeros beyond the image.

    Gradients of these rows go back to the processes that they came from.
    """
    rows: Tensor = _Halo.apply(x, group)
    return rows


def mean_over_all(mean: Tensor, rows: int, group: ProcessGroup) -> Tensor:
    """From each process's mean over its ``rows`` of an image: that over the whole."""
    return total(mean * rows, group) / total(mean.new_tensor(float(rows)), group)


def _neighbours(first: Tensor, last: Tensor, group: ProcessGroup) -> tuple[Tensor, Tensor]:
    """The last rows of the process before and the first rows of the one after; zeros where there is none."""
    from torch import distributed

    first, last = first.contiguous(), last.contiguous()
    before, after = torch.zeros_like(last), torch.zeros_like(first)
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
    def forward(ctx: Any, x: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        before, after = _neighbours(x[:, :, :1], x[:, :, -1:], group)
        return torch.cat((before, x, after), 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        own = grad[:, :, 1:-1].clone()
        of_first, of_last = _neighbours(grad[:, :, :1], grad[:, :, -1:], ctx.group)
        own[:, :, :1] += of_first
        own[:, :, -1:] += of_last
        return own, None
