"""Decoded images kept in memory that all reading processes share, as far as a budget goes."""

from __future__ import annotations

import mmap
import sys
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dmgan_fast import out_of_memory
from dmgan_fast.errors import InputError
from dmgan_fast.sizes import parse_size

SHARE = 4  # of the memory that is free, one part in so many is taken unless told otherwise
AUTO = "auto"
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000) if sys.platform == "linux" else 0


class ImageCache:
    """Images ``[3, h, w]`` uint8 by index, in memory that workers forked later share.

    Memory is taken as images come, and is given back with the processes. It is no file, and does not count against
    ``/dev/shm``. What a process adds, all find.

    Args:
        count: indices are below it.
        budget: bytes that images may take.
    """

    def __init__(self, count: int, budget: int) -> None:
        self.budget = budget
        self._table = np.frombuffer(_shared(8 * (1 + 3 * count)), np.int64)  # bytes taken; end, height, width of each
        self._places = self._table[1:].reshape(count, 3)
        self._pixels = torch.from_numpy(np.frombuffer(_shared(budget), np.uint8))
        self._lock = get_context("fork").Lock() if sys.platform == "linux" else get_context().Lock()

    @property
    def taken(self) -> int:
        """Bytes of all images."""
        return int(self._table[0])

    def __len__(self) -> int:
        return int((self._places[:, 0] > 0).sum())

    def get(self, index: int) -> Tensor | None:
        """An image that is there; not to be written to."""
        end, height, width = self._places[index].tolist()
        return self._pixels[end - 3 * height * width : end].view(3, height, width) if end else None

    def put(self, index: int, image: Tensor) -> None:
        """Keep an image if there is room."""
        size, (height, width) = image.numel(), image.shape[1:]
        with self._lock:
            end = self.taken + size
            if end > self.budget or self._places[index, 0]:
                return
            self._table[0] = end
        self._pixels[end - size : end].copy_(image.reshape(-1))
        self._places[index, 1:] = height, width
        self._places[index, 0] = end  # last: from now on it is found


def _shared(size: int) -> mmap.mmap:
    if sys.platform == "win32":
        return mmap.mmap(-1, max(size, 1))
    return mmap.mmap(-1, max(size, 1), flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | _NO_RESERVE)


def cache_budget(setting: Any, processes: int = 1) -> int:
    """Bytes of ``data.cache``: a size, 0, or ``"auto"``, a quarter of the memory that is free now.

    Args:
        setting: the text or number.
        processes: of the training on this machine, each of which keeps its own.

    Raises:
        InputError: if it is none of these.
    """
    text = str(setting).strip()
    if text == AUTO:
        free = out_of_memory.free_memory(torch.device("cpu"))
        return 0 if free is None else free // SHARE // processes
    if text in ("0", "0B", "none"):
        return 0
    try:
        return parse_size(text)
    except InputError:
        raise InputError(f"data.cache must be auto, 0 or a size as 4GiB, got {setting!r}") from None
