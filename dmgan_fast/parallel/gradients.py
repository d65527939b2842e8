"""Gradients added up over processes while backward continues, as ``DistributedDataParallel`` does it.

That wrapper reduces what one backward of one ``forward`` gives. A step here calls parts of models, starts backward at
the images, collects gradients of spectral norms on leaves, and runs a model several times before its optimiser: so this
listens to parameters instead, and every gradient is reduced once, when it is whole.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dmgan_fast.parallel.collectives import exchange, exchanging

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

BUCKET_BYTES = 25 << 20  # of one exchange: PyTorch's default
ALIGNED = 64  # bytes: where a gradient begins in its bucket


class GradientSum:
    """Sums of the gradients of ``parameters`` over the processes of ``group``.

    Buckets go out in one order, the same on all processes: from the last parameter to the first, as backward reaches
    them. Once a bucket is out, its parameters' ``grad`` are views of it: nothing is copied back, or held twice.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], group: ProcessGroup, *, bucket_bytes: int = BUCKET_BYTES
    ) -> None:
        self.group = group
        self.buckets = _buckets([p for p in parameters if p.requires_grad], bucket_bytes)
        self._place = {p: number for number, bucket in enumerate(self.buckets) for p in bucket}
        self._listening = False
        self._reset()
        arrived = _weakly(self._arrived)
        for parameter in self._place:
            parameter.register_post_accumulate_grad_hook(arrived)

    def _reset(self) -> None:
        self._missing = [len(bucket) for bucket in self.buckets]
        self._sent: list[Any] = []  # exchanges on their way
        self._next = 0

    @contextmanager
    def last_backward(self) -> Iterator[None]:
        """Within, gradients become whole: each bucket goes out once all of its own have arrived."""
        self._listening = True
        try:
            yield
        finally:
            self._listening = False

    def _arrived(self, parameter: Tensor) -> None:
        if not self._listening:
            return
        self._missing[self._place[parameter]] -= 1  # type: ignore[index]
        while self._next < len(self.buckets) and not self._missing[self._next]:
            self._send()

    def send(self) -> None:
        """Send what has not gone out yet; gradients that are None take no part."""
        while self._next < len(self.buckets):
            self._send()

    def _send(self) -> None:
        from torch import distributed

        parameters = [p for p in self.buckets[self._next] if p.grad is not None]
        self._next += 1
        if parameters:
            bucket = _in_a_row(parameters)
            self._sent.append(exchange(distributed.all_reduce, bucket, group=self.group, async_op=True))

    def finish(self) -> None:
        """Wait until every parameter's ``grad`` is the sum."""
        self.send()
        with exchanging(self.group):
            for sending in self._sent:
                if sending is not None:
                    sending.wait()
        self._reset()


def _weakly(method: Callable[[Tensor], None]) -> Callable[[Tensor], None]:
    """The method while its object lives: PyTorch frees no parameter whose hook holds the parameter."""
    held = weakref.WeakMethod(method)

    def call(parameter: Tensor) -> None:
        if (alive := held()) is not None:
            alive(parameter)

    return call


def _in_a_row(parameters: list[nn.Parameter]) -> Tensor:
    """The gradients in one tensor, of which each becomes a view, with the strides of its parameter."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if len(gradients) == 1 and gradients[0].is_contiguous() and parameters[0].is_contiguous():
        return gradients[0].view(-1)
    step = ALIGNED // gradients[0].element_size()
    sizes = [-(-gradient.numel() // step) * step for gradient in gradients]
    row = gradients[0].new_empty(sum(sizes))
    parts = list(zip(row.split(sizes), parameters, strict=True))
    views = [part.as_strided(p.shape, _dense_strides(p), part.storage_offset()) for part, p in parts]
    torch._foreach_copy_(views, gradients)
    gaps = [part[p.numel() :] for part, p in parts if p.numel() < len(part)]
    if gaps:
        torch._foreach_zero_(gaps)
    for parameter, view in zip(parameters, views, strict=True):
        parameter.grad = view
    return row


def _dense_strides(x: Tensor) -> tuple[int, ...]:
    """Those of ``x``, unless it is a part of something larger; then of a contiguous tensor."""
    span = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return x.stride() if span == x.numel() else torch.empty(x.shape, device="meta").stride()


def _buckets(parameters: list[nn.Parameter], size: int) -> list[list[nn.Parameter]]:
    """From the last to the first, ``size`` bytes or one parameter each, of one dtype."""
    buckets: list[list[nn.Parameter]] = []
    room = 0
    for parameter in reversed(parameters):
        if not buckets or parameter.nbytes > room or parameter.dtype != buckets[-1][-1].dtype:
            buckets.append([])
            room = size
        buckets[-1].append(parameter)
        room -= parameter.nbytes
    return buckets
