"""In which order images are seen: a function of seed and epoch alone, the same for any number of processes.

Batch ``n`` of an epoch is the same images on one process or on many, where each takes its rows of it. So a run
continues in the middle of an epoch on another number of processes, and every image is seen once.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Sampler

from dmgan_fast.data.randomness import generator
from dmgan_fast.errors import InputError


class Visit(NamedTuple):
    """An image in an epoch, which together with the seed decide caption, crop and flip."""

    epoch: int
    image: int


class Shards(NamedTuple):
    """Which shard each image lies in, as ``[N]`` int64 from 0 on; ``window``: how many shards are mixed at a time.

    Shards come in random order. The images of one window are shuffled among themselves, and only then those of the next
    one follow: no more than a window of shards has to be at hand.
    """

    of: Tensor
    window: int


def epoch_order(size: int, seed: int, epoch: int, shards: Shards | None = None) -> Tensor:
    """Every image once: ``[size]`` int64."""
    if shards is None:
        return torch.randperm(size, generator=generator(seed, epoch))
    return torch.cat([indices for _, indices in windows(size, seed, epoch, shards)])


def windows(size: int, seed: int, epoch: int, shards: Shards) -> list[tuple[list[int], Tensor]]:
    """Shards and images of each window of an epoch, in order."""
    draw = generator(seed, epoch)
    count = int(shards.of.max()) + 1 if size else 0
    if count <= shards.window:  # all in one: as without shards
        return [(list(range(count)), torch.randperm(size, generator=draw))]
    by_shard = shards.of.argsort(stable=True).split(shards.of.bincount(minlength=count).tolist())
    found = []
    for chosen in torch.randperm(count, generator=draw).split(shards.window):
        inside = torch.cat([by_shard[shard] for shard in chosen.tolist()])
        found.append((chosen.tolist(), inside[torch.randperm(len(inside), generator=draw)]))
    return found


class Batches(Sampler[list[Visit]]):
    """Shuffled batches of one epoch, or of all from there on; the last incomplete one of each is dropped.

    Args:
        size: images.
        batch_size: of all processes together.
        seed: of the order.
        epoch: the first.
        start_batch: batches of it to leave out.
        endless: continue with the next epochs.
        rows: of each batch only these, which one of several processes takes; None: all.
        shards: see ``Shards``.

    Raises:
        InputError: for sizes that do not fit.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        seed: int,
        epoch: int = 0,
        start_batch: int = 0,
        endless: bool = False,
        rows: range | None = None,
        shards: Shards | None = None,
    ) -> None:
        if not 1 <= batch_size <= size:
            raise InputError(f"batch_size must lie in 1..{size} (the images of this split), got {batch_size}")
        if start_batch < 0:
            raise InputError(f"start_batch must be 0 or more, got {start_batch}")
        self.size, self.batch_size, self.seed, self.shards = size, batch_size, seed, shards
        self.epoch, self.start_batch, self.endless = epoch, start_batch, endless
        self._rows = range(batch_size) if rows is None else rows
        self.soon: Callable[[list[int]], object] | None = None  # told which shards are read next, a window ahead

    @property
    def per_epoch(self) -> int:
        """Batches of a whole epoch."""
        return self.size // self.batch_size

    def __len__(self) -> int:
        return max(0, self.per_epoch - self.start_batch)

    def __iter__(self) -> Iterator[list[Visit]]:
        epoch, start = self.epoch, self.start_batch
        while True:
            order: Sequence[int] = epoch_order(self.size, self.seed, epoch, self.shards).tolist()
            coming = self._coming(epoch, start * self.batch_size)
            for number in range(start, self.per_epoch):
                first = number * self.batch_size
                while coming and coming[0][0] < first + self.batch_size:
                    self._tell(coming.pop(0)[1])
                rows = order[first + self._rows.start : first + self._rows.stop]
                yield [Visit(epoch, image) for image in rows]
            if not self.endless:
                return
            epoch, start = epoch + 1, 0

    def _coming(self, epoch: int, image: int) -> list[tuple[int, list[int]]]:
        """From which image of an epoch on which shards are needed soon, for an epoch that begins with ``image``."""
        if self.shards is None or self.soon is None:
            return []
        found = windows(self.size, self.seed, epoch, self.shards)
        ends = list(accumulate(len(images) for _, images in found))
        here = bisect(ends, image)
        after = windows(self.size, self.seed, epoch + 1, self.shards)[:1] if self.endless else []
        needed = [shards for shards, _ in (*found, *after)][here:]
        return [(image, needed[0]), *zip([image, *ends[here:]], needed[1:], strict=False)]

    def _tell(self, shards: list[int]) -> None:
        if self.soon is not None:
            self.soon(shards)
