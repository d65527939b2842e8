"""What the machine is, and whether every op is right on every backend in every precision."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from benchmarks.common import Target
from benchmarks.common import environment as environment_of
from benchmarks.gpu.cases import birds, make, odd, told
from benchmarks.gpu.pool import in_processes
from benchmarks.gpu.stages import Options, Row
from benchmarks.harness import errors, truth_of
from benchmarks.precision import precisions, set_precision
from dmgan_fast.errors import DMGANError
from dmgan_fast.info import collect


def environment(options: Options) -> Iterator[Row]:
    """Raises if there is no GPU where one was asked for, or what later stages import can't be imported here."""
    broken = {name: reason for name in options.needed if (reason := _why_not_imported(name))}
    if broken:
        raise DMGANError("; ".join(f"{name} can't be imported: {reason}" for name, reason in broken.items()))
    row: Row = {"info": collect(), "cores": os.cpu_count(), "device": options.device}
    if options.device == "cuda":
        if not torch.cuda.is_available():
            raise DMGANError("no GPU: PyTorch sees no CUDA device")
        card = torch.cuda.get_device_properties(0)
        row |= {"name": card.name, "memory_bytes": card.total_memory, "l2_bytes": card.L2_cache_size}
        row |= {"capability": f"{card.major}.{card.minor}", "processors": card.multi_processor_count}
        row |= {"cuda": torch.version.cuda, "driver": _driver()}
    yield row | {"environment": environment_of(Target(options.device))}


def _why_not_imported(name: str) -> str | None:
    """A package may be there, and what it imports itself not."""
    try:
        importlib.import_module(name)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def _driver() -> str:
    if not shutil.which("nvidia-smi"):
        return "unknown"
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip() or "unknown"


def check(options: Options) -> Iterator[Row]:
    """Every implementation of every op against float64, strict float32 and TF32 apart; ours also twice."""
    chosen = [*odd(), *([] if options.tiny else birds(10))]
    cells = [(op, size, kind) for kind in precisions(options.device, options.tiny) for op, size in chosen]
    # Forked before this process has touched the device or begun a thread.
    yield from in_processes(
        partial(check_cell, device=options.device),
        cells,
        options.workers,
        died=_died,
        is_sound=partial(_is_sound, options.device),
    )


def _died(code: int, op: str, settings: dict[str, Any], precision: str) -> list[Row]:
    row = {"op": op, "case": str(settings), "precision": precision, "implementation": "dmgan_fast"}
    return [row | {"correct": False, "failed": f"its process left with {code}"}]


def _is_sound(device: str) -> bool:
    """Whether the GPU still works for this process."""
    if device == "cuda":
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            return False
    return True


def check_cell(op: str, settings: dict[str, Any], precision: str, device: str) -> list[Row]:
    """A row for each implementation: its largest errors and whether they are within the tolerance, and for ours
    whether a second run gave the same bits, cuDNN's among them when it is asked for them."""
    torch.set_num_threads(1)
    torch.backends.cudnn.deterministic = True
    tolerance, rows = set_precision(precision).tolerance, []
    case = make(op, settings, precision, device)
    truth = truth_of(case)
    for name, function in case.implementations.items():
        row: Row = {"op": case.op, "case": case.name, "precision": precision, "implementation": name}
        try:
            found = case.both(function)
            result, *gradients = errors(found, truth)
            row |= {"error": result, "gradient_error": max(gradients), "tolerance": tolerance}
            row["correct"] = all(each <= tolerance for each in (result, *gradients))
            if name.startswith("dmgan_fast"):
                row["same_bits"] = all(map(torch.equal, found, case.both(function)))
        except RuntimeError as error:  # the others still run
            row |= told(error)
        rows.append(row)
    return rows
