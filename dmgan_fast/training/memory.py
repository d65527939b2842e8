"""Out of memory: what was being done, what it needs, what is free, and the settings that would make it fit."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dmgan_fast.errors import OutOfMemory

if TYPE_CHECKING:
    from dmgan_fast.modules import Generator
    from dmgan_fast.training.config import TrainConfig

UNITS = {"B": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}
ROOM = 0.8  # of what is free may be planned with: the rest goes to what nobody counts
SMALLEST_TILE, USUAL_TILE = 64, 256
_TEXTS = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc", "cannot allocate memory")
_CUDA_TEXTS = ("cublas_status_alloc_failed", "cudnn_status_alloc_failed", "cudaerrormemoryallocation")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, however that is said: Python's, PyTorch's on CPUs and GPUs, C++'s."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, (RuntimeError, OSError)) and any(part in text for part in (*_TEXTS, *_CUDA_TEXTS))


def asked_bytes(error: BaseException) -> int | None:
    """What the allocation that failed asked for, if the error says."""
    text = str(error)
    if found := re.search(r"tried to allocate (\d+) bytes", text):
        return int(found[1])
    if found := re.search(r"(?i)tried to allocate ([\d.]+) ([KMG]?iB)", text):
        return int(float(found[1]) * UNITS[found[2].upper()])
    return None


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be had: of the card; of the machine within the process's and its group's limits."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info(device)[0])
    found = [value for read in (_available, _within_limit, _within_group) if (value := read()) is not None]
    return max(0, min(found)) if found else None


@contextmanager
def told_of_drawing(generator: Generator, pictures: int, tile: int | None) -> Iterator[None]:
    """Within, running out of memory becomes ``OutOfMemory`` that says how to draw with less."""
    with _told(lambda asked: drawing_advice(generator, pictures, tile, asked)):
        yield


@contextmanager
def told_of_training(config: object, device: torch.device) -> Iterator[None]:
    """Within, running out of memory becomes ``OutOfMemory`` that says how to train with less."""
    with _told(lambda asked: training_advice(config, device, asked)):
        yield


@contextmanager
def told_of_batches(what: str, batch: int, device: torch.device) -> Iterator[None]:
    """The same, where the batch is all there is to change."""
    with _told(
        lambda asked: (
            f"out of memory while {what}, {batch} pictures at once{_numbers(asked, free_memory(device))}; "
            + (f"take fewer at once: --batch {max(1, batch // 4)}" if batch > 1 else "one picture alone does not fit")
        )
    ):
        yield


@contextmanager
def _told(advice: Callable[[int | None], str]) -> Iterator[None]:
    asked: int | None = None
    failed = False
    try:
        yield
    except OutOfMemory:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        asked, failed = asked_bytes(error), True
        traceback.clear_frames(error.__traceback__)  # they hold the tensors, and what is free is looked at next
    if failed:
        raise OutOfMemory(advice(asked))


def drawing_advice(generator: Generator, pictures: int, tile: int | None, asked: int | None) -> str:
    """What was drawn, what that needs, and what would fit."""
    side = generator.config.image_sizes[-1]
    device = next(generator.parameters()).device
    free = free_memory(device)
    if tile is not None:
        what = f"out of memory while drawing at side {side} in windows of {tile}{_numbers(asked, free)}; "
        return what + (
            f"take smaller windows (--tile {SMALLEST_TILE})" if tile > SMALLEST_TILE else "draw on another --device"
        )
    base, each = _drawing_bytes(generator, device)
    numbers = _numbers(
        asked, free, f"about {_show(base + each * pictures)} needed, {_show(each)} of it by each picture"
    )
    at_once = "one picture" if pictures == 1 else f"{pictures} pictures at once"
    what = f"out of memory while drawing {at_once} at side {side}{numbers}; "
    window = min(USUAL_TILE, max(SMALLEST_TILE, side // 2))
    tiles = f"in windows (--tile {window}, with `sample`)"
    if pictures == 1:
        return f"{what}draw {tiles}"
    fitting = int((free * ROOM - base) // each) if free is not None and each else pictures // 4
    fewer = max(1, min(fitting, pictures // 2))
    return f"{what}draw fewer at once (--batch {fewer}; batch_size in Python), or {tiles}"


def training_advice(config: object, device: torch.device, asked: int | None) -> str:
    """What a step needs, and the settings that make it need less."""
    from dmgan_fast.training.config import LoopConfig, TrainConfig

    loop = getattr(config, "loop", LoopConfig())
    free = free_memory(device)
    fewer = max(2, loop.batch_size // 2)
    if not isinstance(config, TrainConfig):
        return (
            f"out of memory in a step of {loop.batch_size} pictures{_numbers(asked, free)}; take fewer at once: "
            "--batch "
            f"{fewer}"
        )
    side, precision = config.generator.image_sizes[-1], config.step.precision
    needed = _step_bytes(config, device)
    budget = f"{max(1, int((free or needed or 1 << 30) * ROOM) >> 20)}MiB"
    numbers = _numbers(asked, free, f"about {_show(needed)} needed" if needed else "")
    what = f"out of memory in a step of {loop.batch_size} pictures at side {side} in {precision}{numbers}; "
    kind = device.type
    plan = (
        f"dmgan-fast plan --size {side} --batch {loop.batch_size} --dtype {precision} --memory {budget} --device {kind}"
    )
    levers = [f"keep less, with the same result (--memory {budget}; `{plan}` says what fits)", f"--batch {fewer}"]
    levers += ["--dtype bf16"] if precision == "fp32" else []
    return what + ", or ".join(levers)


def levers(command: str, error: BaseException, device: torch.device) -> str:
    """Of a command that ran out of memory where nobody looked."""
    ways = {
        "sample": "draw fewer pictures at once (--batch 1) or in windows (--tile 64)",
        "evaluate": "take fewer pictures at once (--batch 8)",
        "train": "keep less (--memory; `dmgan-fast plan` says what fits) or take fewer pictures at once (--batch 4)",
        "pretrain": "take fewer pictures at once (--batch 8)",
    }
    way = ways.get(command, "close other programs, or see `dmgan-fast plan` for what a training step needs")
    return f"out of memory{_numbers(asked_bytes(error), free_memory(device))}; {way}"


def _numbers(asked: int | None, free: int | None, needed: str = "") -> str:
    parts = [needed] if needed else []
    parts += [f"{_show(asked)} asked for last"] if asked else []
    parts += [f"{_show(free)} free"] if free is not None else []
    return f" ({', '.join(parts)})" if parts else ""


def _show(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{max(1, round(size / 2**20))} MiB"


def _drawing_bytes(generator: Generator, device: torch.device) -> tuple[int, int]:
    """Bytes beside the weights: of any batch, and of each picture in it."""
    from dmgan_fast.training.planner import drawing_bytes

    one, two = (drawing_bytes(generator.config, size, device.type) for size in (1, 2))
    return max(0, 2 * one - two), max(1, two - one)


def _step_bytes(config: TrainConfig, device: torch.device) -> int | None:
    from dmgan_fast.training.planner import measure_of

    try:
        return measure_of(config, device.type)(config.step.memory, config.loop.batch_size).peak_bytes
    except Exception:  # a forecast is not worth losing the message for
        return None


def _available() -> int | None:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return None


def _within_limit() -> int | None:
    """What the limit on the address space leaves."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit == resource.RLIM_INFINITY:
            return None
        with open("/proc/self/statm", encoding="ascii") as file:
            return limit - int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (ImportError, OSError, ValueError):
        return None


def _within_group() -> int | None:
    """What the container's limit leaves."""
    try:
        limit, used = (Path(f"/sys/fs/cgroup/memory.{name}").read_text().strip() for name in ("max", "current"))
        return None if limit == "max" else int(limit) - int(used)
    except (OSError, ValueError):
        return None
