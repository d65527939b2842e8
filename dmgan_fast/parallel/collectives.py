"""Exchanges between the processes of a group, with gradients where a model needs them.

Sums are taken in the order of the ranks, of numbers that every process has: so all have the same bits, in every run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dmgan_fast.errors import ProcessError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

GATHERED = 1 << 20  # bytes from all processes that each may merge by itself


class AbsentGroup:
    """A group of processes that need not be there, as a plan is made for: of tensors without data, it sends nothing."""

    group_name = "absent"

    def __init__(self, rank: int, size: int) -> None:
        self._rank, self._size = rank, size

    def rank(self) -> int:
        """Of the process that is planned for."""
        return self._rank

    def size(self) -> int:
        """How many there would be."""
        return self._size


def exchange(call: Callable[..., Any], *arguments: Any, group: ProcessGroup, **options: Any) -> Any:
    """A call of ``torch.distributed``; among processes that are only planned for, None.

    Raises:
        ProcessError: as ``exchanging``.
    """
    if isinstance(group, AbsentGroup):
        return None
    with exchanging(group):
        return call(*arguments, group=group, **options)


@contextmanager
def exchanging(group: ProcessGroup) -> Iterator[None]:
    """Within, what PyTorch says of a lost or silent process becomes ``ProcessError``."""
    try:
        yield
    except RuntimeError as error:
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ProcessError(
            f"process {group.rank()} of {group.size()} could not exchange with the others: one of them has ended, "
            f"hangs or can't be reached, and its own message says why ({why})"
        ) from error


def gather(own: Tensor, group: ProcessGroup) -> Tensor:
    """``[P, ...]``: what each process has, in the order of their ranks; of one shape on all."""
    from torch import distributed

    own = own.contiguous()
    gathered = own.new_empty((group.size(), *own.shape))
    # Newer versions of PyTorch have a new name, and warn of the old one.
    all_gather = getattr(distributed, "all_gather_single", None) or distributed.all_gather_into_tensor
    exchange(all_gather, gathered.view(-1), own.view(-1), group=group)
    return gathered


def merged(own: Tensor, group: ProcessGroup, merge: Callable[[Tensor], Tensor]) -> Tensor:
    """``merge`` of what all processes have: ``[P, K, C]`` → ``[M, C]``, channel by channel; ``own`` is ``[K, C]``.

    Few numbers are gathered and merged by all. Of many, each process merges some channels for the others: that sends
    about ``2 K C`` numbers on any number of processes, where gathering sends ``(P - 1) K C``.
    """
    from torch import distributed

    size, (rows, channels) = group.size(), own.shape
    if size * own.nbytes <= GATHERED:
        return merge(gather(own, group))
    width = -(-channels // size)
    parts = F.pad(own, (0, size * width - channels)).view(rows, size, width).transpose(0, 1).contiguous()
    received = torch.empty_like(parts)
    exchange(distributed.all_to_all_single, received, parts, group=group)
    return gather(merge(received), group).transpose(0, 1).flatten(1)[:, :channels].contiguous()


def total_of(own: Tensor, group: ProcessGroup) -> Tensor:
    """The sum over all processes, without gradient."""
    return merged(own.reshape(1, -1), group, lambda parts: parts.sum(0)).view(own.shape)


def scatter_sum(parts: Tensor, sizes: Sequence[int], group: ProcessGroup) -> Tensor:
    """The sum over processes of this process's rows of ``parts [sum(sizes), ...]``, in the order of the ranks."""
    from torch import distributed

    mine = sizes[group.rank()]
    received = parts.new_empty((group.size() * mine, *parts.shape[1:]))
    counts = ([mine] * group.size(), list(sizes))
    exchange(distributed.all_to_all_single, received, parts.contiguous(), *counts, group=group)
    return received.view(group.size(), mine, *parts.shape[1:]).sum(0)


def gather_rows(own: Tensor, sizes: Sequence[int], group: ProcessGroup) -> Tensor:
    """Rows of all processes, ``sizes[r]`` of process r, in the order of their ranks; without gradient."""
    most = max(sizes)
    if own.shape[0] < most:
        own = torch.cat((own, own.new_zeros((most - own.shape[0], *own.shape[1:]))))
    gathered = gather(own, group)
    if min(sizes) == most:
        return gathered.flatten(0, 1)
    return torch.cat([part[:size] for part, size in zip(gathered, sizes, strict=True)])


def total(own: Tensor, group: ProcessGroup) -> Tensor:
    """The sum over all processes; its gradient is the sum of all processes' gradients."""
    result: Tensor = _Total.apply(own, group)
    return result


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        return total_of(own, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return total(grad, ctx.group), None


class RowsForAll(torch.autograd.Function):
    """Rows of all processes, each of which uses them in its own way: their gradients add up."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, sizes: Sequence[int], group: ProcessGroup) -> Tensor:
        ctx.sizes, ctx.group = sizes, group
        return gather_rows(own, sizes, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return scatter_sum(grad, ctx.sizes, ctx.group), None, None


class RowsAlike(torch.autograd.Function):
    """Rows of all processes, all of which compute the same number from them: each takes its own rows' gradient."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, sizes: Sequence[int], group: ProcessGroup) -> Tensor:
        first = sum(sizes[: group.rank()])
        ctx.rows = slice(first, first + sizes[group.rank()])
        return gather_rows(own, sizes, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return grad[ctx.rows], None, None
