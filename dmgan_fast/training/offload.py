"""Host offload: what is saved for backward waits in the host's pinned memory.

Copies run on a stream of their own: out while the next block computes, and back one tensor ahead of its use, in the
reverse order, which is backward's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

SMALLEST = 1 << 20  # bytes: below that a copy costs more than it frees


@contextmanager
def offloaded(smallest: int = SMALLEST) -> Iterator[None]:
    """Within, tensors of ``smallest`` bytes or more that are saved for backward move to the host; parameters stay.

    Meant around regions that keep their inputs only (``rematerialise``). Of tensors on the CPU it makes copies.
    """
    shelf = _Shelf(smallest)
    with torch.autograd.graph.saved_tensors_hooks(shelf.put, shelf.get):
        yield


class _Kept:
    """A tensor on the host; on the device from when it is fetched until it is handed over."""

    def __init__(self, host: Tensor, device: torch.device, number: int) -> None:
        self.host, self.device, self.number = host, device, number
        self.fetched: Tensor | None = None


class _Shelf:
    """All that one forward pass offloads."""

    def __init__(self, smallest: int) -> None:
        self.smallest = smallest
        self.kept: list[_Kept] = []
        self.stream: torch.cuda.Stream | None = None

    def put(self, tensor: Tensor) -> Tensor | _Kept:
        if tensor.nbytes < self.smallest or isinstance(tensor, nn.Parameter):
            return tensor
        host = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
        if tensor.is_cuda:
            if self.stream is None:
                self.stream = torch.cuda.Stream(tensor.device)
            self.stream.wait_stream(torch.cuda.current_stream(tensor.device))  # the tensor must be computed
            with torch.cuda.stream(self.stream):
                host.copy_(tensor, non_blocking=True)
            tensor.record_stream(self.stream)  # its memory is not reused before the copy is done
        else:
            host.copy_(tensor)
        kept = _Kept(host, tensor.device, len(self.kept))
        self.kept.append(kept)
        return kept

    def get(self, kept: Tensor | _Kept) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        self._fetch(kept)
        if self.stream is not None:  # this tensor must have arrived; the next one need not
            torch.cuda.current_stream(kept.device).wait_stream(self.stream)
        tensor, kept.fetched = kept.fetched, None
        assert tensor is not None
        if self.stream is not None:
            tensor.record_stream(torch.cuda.current_stream(kept.device))
            if kept.number:
                self._fetch(self.kept[kept.number - 1])
        return tensor

    def _fetch(self, kept: _Kept) -> None:
        """Start the copy back, unless it is under way. One stream runs it after the copy out."""
        if kept.fetched is not None:
            return
        if self.stream is None:
            kept.fetched = kept.host
            return
        with torch.cuda.stream(self.stream):
            kept.fetched = kept.host.to(kept.device, non_blocking=True)
