"""Options that several commands share, and what they mean."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from dmgan_fast.errors import InputError

Preset = Annotated[str, typer.Option(help="Settings to start from: birds, coco, attngan-birds, attngan-coco or demo.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML file over the preset.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="One setting, as loop.steps=500; may be repeated."),
]
DataFolder = Annotated[
    str | None, typer.Option("--data", help="'demo' or a folder: CUB, COCO, flowers, or your own (docs/data.md).")
]
SkipBad = Annotated[
    int | None,
    typer.Option(
        "--skip-bad",
        metavar="N",
        min=0,
        help="Leave out at most N images that are missing, damaged or without a caption, as --skip-bad 3; they are "
        "named. Default: none, the run refuses.",
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Resume from the latest checkpoint in --out.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads.")]
Size = Annotated[
    int | None, typer.Option(help="Highest resolution: 64, 128, 256, 512, 1024, ...; default: the preset's.")
]
Precision = Annotated[str | None, typer.Option("--dtype", help="fp32, bf16 or fp16.")]

Device = Annotated[
    str, typer.Option(help="Where: auto (a GPU if there is one), cpu, cuda or cuda:N, as --device cuda:1.")
]
Step = Annotated[
    str | None,
    typer.Option(metavar="N|best", help="Of a run: the checkpoint of a step, or the best: --step 20000, --step best."),
]
Batch = Annotated[int | None, typer.Option(min=2, help="Images per step, as --batch 8; default: the preset's.")]


def run_values(data: str | None, skip_bad: int | None, batch: int | None) -> dict[str, object]:
    """Settings of ``--data``, ``--skip-bad`` and ``--batch``."""
    given: dict[str, dict[str, object]] = {
        "data": {"source": data or None, "skip_bad": skip_bad},
        "loop": {"batch_size": batch},
    }
    groups = {group: {name: x for name, x in values.items() if x is not None} for group, values in given.items()}
    return {group: values for group, values in groups.items() if values}


def generator_values(size: int | None, dtype: str | None) -> dict[str, object]:
    """Settings of ``--size`` and ``--dtype``."""
    from dmgan_fast.modules.generator import sizes_up_to

    values: dict[str, object] = {"generator": {"image_sizes": sizes_up_to(size)}} if size is not None else {}
    return values | ({"step": {"precision": dtype}} if dtype else {})


def first_process() -> bool:
    """Whether this is the only process or, under ``torchrun``, the one that says what happens."""
    return os.environ.get("RANK", "0") == "0"


def refuse_processes(command: str) -> None:
    """Raise ``InputError`` under ``torchrun`` with several processes, each of which would do the same."""
    size = os.environ.get("WORLD_SIZE", "1")
    if size != "1":
        raise InputError(f"{command} is for one process, and WORLD_SIZE is {size}; start it without torchrun")


@contextmanager
def working(what: str, total: int | None = None) -> Iterator[Callable[[], None]]:
    """``progress.working``, imported when first needed."""
    from dmgan_fast import progress

    with progress.working(what, total) as tick:
        yield tick


def use_threads(threads: int | None) -> None:
    if threads:
        import torch

        torch.set_num_threads(threads)


def split_names(given: str | None) -> list[str]:
    return [name.strip() for name in (given or "").split(",") if name.strip()]


def pair(given: str) -> tuple[str, str]:
    name, separator, value = given.partition("=")
    if not separator:
        raise InputError(f"--statistics is written METRIC=FILE, got {given!r}")
    return name, value


@contextmanager
def notices() -> Iterator[None]:
    """Within, what a run takes over, finds moved or continues with is told on standard error, by one process."""
    if not first_process():
        yield
        return
    logger = logging.getLogger("dmgan_fast.runs")
    handler, level = _Notices(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _Notices(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        warning = "warning: " if record.levelno >= logging.WARNING else ""
        print(f"dmgan-fast: {warning}{record.getMessage()}", file=sys.stderr)
