"""Where to compute, and for which device a step without data is planned."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from dmgan_fast.errors import InputError

_planned: ContextVar[str | None] = ContextVar("planned", default=None)


@contextmanager
def planned_for(kind: str) -> Iterator[None]:
    """Within, tensors without data, which say that they are on a CPU, stand for some on a device of this type."""
    before = _planned.set(kind if kind != "cpu" else None)
    try:
        yield
    finally:
        _planned.reset(before)


def planned() -> str | None:
    """The type of the device that is planned for; None outside of plans, and for CPUs."""
    return _planned.get()


def type_of(tensor: Tensor) -> str:
    """The type of the device that the tensor is on, or stands for one on."""
    return _planned.get() or tensor.device.type


def pick_device(name: str) -> torch.device:
    """``"auto"``: a GPU if there is one. Of several processes, ``"auto"`` and ``"cuda"`` give each a GPU of its own.

    Raises:
        InputError: for another name than auto, cpu, cuda, cuda:N, a GPU that is not here, or fewer than processes.
    """
    if name in ("auto", "cuda") and torch.cuda.is_available() and os.environ.get("WORLD_SIZE", "1") != "1":
        place, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if place >= gpus:
            raise InputError(f"device: this is process {place + 1} of a machine with {gpus} GPUs; start {gpus} there")
        return torch.device("cuda", place)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(
            f"device must be auto, cpu, cuda or cuda:N, got {name!r}: {str(error).splitlines()[0]}"
        ) from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise InputError(f"device: PyTorch sees no CUDA device here, got {name!r}")
        if (device.index or 0) >= torch.cuda.device_count():
            raise InputError(f"device: there are {torch.cuda.device_count()} CUDA devices here, from 0, got {name!r}")
    return device
