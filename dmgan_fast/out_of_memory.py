"""Out of memory: what was being done, what it needs, what is free, and the settings that would make it fit."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import torch
from pydantic import ByteSize, TypeAdapter

from dmgan_fast.errors import OutOfMemory
from dmgan_fast.sizes import show_size

ROOM = 0.8  # of what is free may be planned with: the rest goes to what nobody counts
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
    found = re.search(r"(?i)tried to allocate (\d+(?:\.\d+)?) (?:bytes|([KMG]iB))", str(error))
    return int(TypeAdapter(ByteSize).validate_python(found[1] + (found[2] or ""))) if found else None


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be had: of the GPU; of the machine within the process's and its group's limits."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info(device)[0])
    found = [value for read in (_available, _within_limit, _within_group) if (value := read()) is not None]
    return max(0, min(found)) if found else None


@contextmanager
def told(advice: Callable[[int | None], str]) -> Iterator[None]:
    """Within, running out of memory becomes ``OutOfMemory`` with advice on what the last allocation asked for."""
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


def told_of_batches(what: str, batch: int, device: torch.device) -> AbstractContextManager[None]:
    """Within, running out of memory becomes ``OutOfMemory`` that says to take fewer images at once."""
    way = f"take fewer at once: --batch {max(1, batch // 4)}" if batch > 1 else "one image alone does not fit"
    what = f"out of memory while {what}, {batch} images at once"
    return told(lambda asked: f"{what}{numbers(asked, free_memory(device))}; {way}")


def levers(command: str, error: BaseException, device: torch.device) -> str:
    """Of a command that ran out of memory where nobody looked."""
    ways = {
        "sample": "generate fewer images at once (--batch 1) or in windows (--tile 64)",
        "evaluate": "take fewer images at once (--batch 8)",
        "train": "keep less (--memory; `dmgan-fast plan` says what fits) or take fewer images at once (--batch 4)",
        "pretrain": "take fewer images at once (--batch 8)",
    }
    way = ways.get(command, "close other programs, or see `dmgan-fast plan` for what a training step needs")
    return f"out of memory{numbers(asked_bytes(error), free_memory(device))}; {way}"


def numbers(asked: int | None, free: int | None, needed: str = "") -> str:
    """What is known of bytes, in parentheses."""
    parts = [needed] if needed else []
    parts += [f"{show_size(asked)} asked for last"] if asked else []
    parts += [f"{show_size(free)} free"] if free is not None else []
    return f" ({', '.join(parts)})" if parts else ""


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
