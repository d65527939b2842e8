"""Batches in an order that depends on seed and epoch only, read ahead by worker processes, finished on the device.

Workers send 8-bit images, cropped. Mirroring, the smaller resolutions and the range [-1, 1] are made of the whole batch
on the device that trains; the random numbers come with the images, so they are the same on every device.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Thread
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dmgan_fast.data.dataset import CaptionedImages, ImageItem, RawItem, scaled
from dmgan_fast.data.order import Batches, Visit
from dmgan_fast.data.workers import AHEAD
from dmgan_fast.sizes import show_size


class ImageBatch(NamedTuple):
    """``images``: ``[B, 3, S, S]`` per resolution; ``captions [B, T]``, ``lengths [B]``, ``class_ids [B]`` int64."""

    images: list[Tensor]
    captions: Tensor
    lengths: Tensor
    class_ids: Tensor
    keys: list[str]


class RawBatch(NamedTuple):
    """As workers send it: ``images [B, 3, S, S]`` uint8, ``flips [B]`` bool, and as in ``ImageBatch``."""

    images: Tensor
    flips: Tensor
    captions: Tensor
    lengths: Tensor
    class_ids: Tensor
    keys: list[str]


class Loader:
    """Batches of a data set; each iteration starts its workers anew.

    Args:
        dataset: to read.
        batches: which images, ``Visit`` s or indices of the dataset's own epoch.
        workers: processes that read ahead; the data do not depend on it.
        device: for the images; None: the CPU.
    """

    def __init__(
        self,
        dataset: CaptionedImages,
        batches: Any,
        *,
        workers: int = 0,
        device: torch.device | None = None,
    ) -> None:
        self.dataset, self.batches = dataset, batches
        self.device = device or torch.device("cpu")
        self._loader: DataLoader[RawBatch] = DataLoader(
            _Visits(dataset),  # type: ignore[arg-type]  # items become batches in collate
            batch_sampler=batches,
            num_workers=workers,
            pin_memory=self.device.type == "cuda",
            collate_fn=collate_raw,
            generator=torch.Generator(),  # else each start would take numbers from the global one
            prefetch_factor=AHEAD if workers else None,
            worker_init_fn=_leave_signals_to_the_main_process,
            multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        )

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[ImageBatch]:
        with self.dataset.fetching_ahead() as soon:
            if soon is not None and isinstance(self.batches, Batches):
                self.batches.soon = soon
            yield from self._finished()

    def _finished(self) -> Iterator[ImageBatch]:
        with _sigterm_blocked():
            batches = iter(self._loader)
        for raw in batches:
            images, flips = (x.to(self.device, non_blocking=True) for x in (raw.images, raw.flips))
            images = scaled(images, flips, self.dataset.image_sizes)
            yield ImageBatch(images, raw.captions, raw.lengths, raw.class_ids, raw.keys)


class _Visits(Dataset[RawItem]):
    """The data set by epoch and index."""

    def __init__(self, dataset: CaptionedImages) -> None:
        self.dataset = dataset

    def __getitem__(self, visit: Visit) -> RawItem:
        return self.dataset.visit(*visit)


def make_loader(
    dataset: CaptionedImages,
    batch_size: int,
    *,
    seed: int = 0,
    epoch: int = 0,
    start_batch: int = 0,
    endless: bool = False,
    workers: int = 0,
    device: torch.device | None = None,
    rows: range | None = None,
) -> Loader:
    """Shuffled batches of one epoch, or of all from there on by the same workers.

    Args:
        dataset: the images.
        batch_size: of all processes together: 1 or more, at most the images of the split.
        start_batch: batches to leave out, for resuming.
        endless: continue with the next epochs, without a pause between them.
        workers, device: see ``Loader``.
        rows: of each batch only these, which one of several processes takes; None: all.
    """
    batches = Batches(
        len(dataset),
        batch_size,
        seed=seed,
        epoch=epoch,
        start_batch=start_batch,
        endless=endless,
        rows=rows,
        shards=dataset.shards,
    )
    return Loader(dataset, batches, workers=workers, device=device)


@contextmanager
def _sigterm_blocked() -> Iterator[None]:
    """Within, processes are started with SIGTERM blocked: in all of their threads, and from their first moment."""
    if not hasattr(signal, "sigwaitinfo"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_signals_to_the_main_process(worker: int) -> None:
    """What a scheduler sends to all processes must not end those that read before the step is saved.

    The main process itself still ends them by SIGTERM, as when it exits while a loader is open; otherwise it would wait
    for them without end.
    """
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        Thread(target=_end_with_the_main_process, args=(os.getppid(),), daemon=True).start()


def _end_with_the_main_process(main: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != main:
        pass
    os._exit(0)


def loader_in_order(
    dataset: CaptionedImages, batch_size: int, *, workers: int = 0, device: torch.device | None = None
) -> Loader:
    """Every image once in the order of the set, the last batch as large as is left."""
    visits = [Visit(dataset.epoch, index) for index in range(len(dataset))]
    batches = [visits[start : start + batch_size] for start in range(0, len(visits), batch_size)]
    return Loader(dataset, batches, workers=workers, device=device)


def reading(dataset: CaptionedImages, workers: int) -> str:
    """How images are read, for people."""
    who = f"{workers} worker processes read ahead" if workers else "images are read between the steps"
    if dataset.cache is None:
        return f"{who}; each is decoded at every visit"
    return f"{who}; decoded images are kept in memory, at most {show_size(dataset.cache.budget)} (data.cache)"


def batch_bytes(dataset: CaptionedImages, batch_size: int) -> int:
    """Of a batch as workers send it, about."""
    return batch_size * (3 * dataset.image_sizes[-1] ** 2 + 8 * dataset.max_words)


def collate_raw(items: Sequence[RawItem]) -> RawBatch:
    """Stack what workers send."""
    images = torch.stack([item.image for item in items])
    return RawBatch(images, torch.tensor([item.flip for item in items]), *_common(items))


def collate(items: Sequence[ImageItem]) -> ImageBatch:
    """Stack items."""
    return ImageBatch(
        [torch.stack(side) for side in zip(*(item.images for item in items), strict=True)], *_common(items)
    )


def _common(items: Sequence[RawItem] | Sequence[ImageItem]) -> tuple[Tensor, Tensor, Tensor, list[str]]:
    return (
        torch.stack([item.caption for item in items]),
        torch.tensor([item.length for item in items]),
        torch.tensor([item.class_id for item in items]),
        [item.key for item in items],
    )
