"""Batches in an order that depends on seed and epoch only, so that training resumes in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from dmgan_fast.data.dataset import CaptionedPictures, PictureItem, generator
from dmgan_fast.errors import InputError


class PictureBatch(NamedTuple):
    """``images``: ``[B, 3, S, S]`` for each side; ``captions [B, T]``, ``lengths [B]``, ``class_ids [B]`` int64."""

    images: list[Tensor]
    captions: Tensor
    lengths: Tensor
    class_ids: Tensor
    keys: list[str]


class EpochBatches(Sampler[list[int]]):
    """Shuffled batches of one epoch from ``start_batch`` on; the last incomplete one is dropped.

    ``rows``: of each batch only these; None: all.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        seed: int,
        epoch: int,
        start_batch: int = 0,
        rows: range | None = None,
    ) -> None:
        if not 1 <= batch_size <= size:
            raise InputError(f"batch_size must lie in 1..{size} (the pictures of this split), got {batch_size}")
        if start_batch < 0:
            raise InputError(f"start_batch must be 0 or more, got {start_batch}")
        self._order = torch.randperm(size, generator=generator(seed, epoch)).tolist()
        self._starts = range(start_batch * batch_size, size - batch_size + 1, batch_size)
        self._rows = rows or range(batch_size)

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[list[int]]:
        rows = self._rows
        return (self._order[start + rows.start : start + rows.stop] for start in self._starts)


def make_loader(
    dataset: CaptionedPictures,
    batch_size: int,
    *,
    seed: int = 0,
    epoch: int = 0,
    start_batch: int = 0,
    workers: int = 0,
    pin_memory: bool = False,
    rows: range | None = None,
) -> DataLoader[PictureBatch]:
    """Batches of one epoch.

    Args:
        dataset: its epoch is set to ``epoch``.
        batch_size: 1 or more, at most the pictures of the split.
        start_batch: batches to leave out, for resuming.
        workers: processes that read ahead; the data do not depend on it.
        pin_memory: for copies to a GPU.
        rows: of each batch only these, which one of several processes has; None: all.
    """
    dataset.set_epoch(epoch)
    return DataLoader(
        dataset,  # type: ignore[arg-type]  # items become batches in collate
        batch_sampler=EpochBatches(
            len(dataset), batch_size, seed=seed, epoch=epoch, start_batch=start_batch, rows=rows
        ),
        num_workers=workers,
        pin_memory=pin_memory,
        collate_fn=collate,
        generator=torch.Generator().manual_seed(seed),  # else each epoch's start would draw from the global one
        prefetch_factor=2 if workers else None,
    )


def collate(items: list[PictureItem]) -> PictureBatch:
    """Stack items."""
    return PictureBatch(
        images=[torch.stack(side) for side in zip(*(item.images for item in items), strict=True)],
        captions=torch.stack([item.caption for item in items]),
        lengths=torch.tensor([item.length for item in items]),
        class_ids=torch.tensor([item.class_id for item in items]),
        keys=[item.key for item in items],
    )
