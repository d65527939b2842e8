"""How many processes read ahead, where nobody says."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import torch

MOST = 8
AHEAD = 2  # batches that each worker has ready
SHARED_MEMORY = Path("/dev/shm")  # through which batches come from workers


def helpful_workers(device: torch.device, batch_bytes: int, *, processes: int = 1) -> int:
    """As many as help, at most ``MOST``.

    On a CPU none: training takes all of its cores, and reading is a small part of a step. For a GPU, the cores of this
    process but one, as far as ``/dev/shm`` has room for what they read ahead: where it is too small, as in a container
    by default, a worker would be killed.

    Args:
        device: that trains.
        batch_bytes: of a batch as workers send it.
        processes: of the training on this machine.
    """
    if device.type == "cpu" or sys.platform != "linux":
        return 0
    cores = usable_cores() // processes
    room = _room() // processes
    return max(0, min(MOST, cores - 1, room // max(1, (AHEAD + 1) * batch_bytes)))


def usable_cores() -> int:
    """CPUs that this process may use: its affinity, and what the container's quota pays for."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError, ZeroDivisionError):
        return cores


def local_processes() -> int:
    """Processes of this training on this machine, as ``torchrun`` says."""
    text = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, int(text)) if text.isdigit() else 1


def _room() -> int:
    try:
        return shutil.disk_usage(SHARED_MEMORY).free
    except OSError:
        return sys.maxsize
