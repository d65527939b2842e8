"""What a run shows and writes as it goes: progress bar, CSV, TensorBoard, pictures."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from dmgan_fast.errors import DMGANError
from dmgan_fast.files import replace_file


class CsvLog:
    """Rows of numbers under a header; on resume it is cut back to ``last_step`` and goes on from there."""

    def __init__(self, path: str | os.PathLike[str], last_step: int = 0) -> None:
        self.path = Path(path)
        self.columns: list[str] = []
        if not self.path.exists():
            return
        if last_step == 0:
            self.path.unlink()
            return
        with open(self.path, newline="") as file:
            rows = [row for row in csv.reader(file) if row]
        if not rows:
            return
        self.columns = rows[0]
        complete = [row for row in rows[1:] if len(row) == len(self.columns) and row[0].isdigit()]
        with replace_file(self.path) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(self.columns)
            writer.writerows(row for row in complete if int(row[0]) <= last_step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append one row."""
        columns = ["step", *values]
        if self.columns and columns != self.columns:
            raise DMGANError(f"{self.path}: its columns are {self.columns}, this run writes {columns}")
        with open(self.path, "a", newline="") as file:
            writer = csv.writer(file)
            if not self.columns:
                self.columns = columns
                writer.writerow(columns)
            writer.writerow([step, *(f"{value:.6g}" for value in values.values())])


class TensorBoardLog:
    """Scalars and pictures for TensorBoard; does nothing if ``folder`` is None."""

    def __init__(self, folder: str | os.PathLike[str] | None, last_step: int = 0) -> None:
        self.writer: Any = None
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(folder), purge_step=last_step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)

    def picture(self, step: int, grid: Tensor) -> None:
        if self.writer is not None:
            self.writer.add_image("samples", (grid + 1) / 2, step)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


class ProgressBar:
    """A bar with rate, time left and losses on a terminal; a line for each report elsewhere."""

    def __init__(self, name: str, step: int, total: int, batch_size: int, *, show: bool = True) -> None:
        self.name, self.first, self.total, self.batch_size, self.show = name, step, total, batch_size, show
        self.start = time.perf_counter()
        self.console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[losses]}"),
            console=self.console,
            disable=not (show and self.console.is_terminal),
        )
        self.task = self.bar.add_task(name, total=total, completed=step, rate="", losses="")

    def __enter__(self) -> ProgressBar:
        self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.stop()

    def rate(self, step: int) -> float:
        """Pictures per second since the run (re)started."""
        return (step - self.first) * self.batch_size / max(time.perf_counter() - self.start, 1e-9)

    def advance(self, step: int) -> None:
        self.bar.update(self.task, completed=step, rate=f"{self.rate(step):.1f} pictures/s")

    def report(self, step: int, values: Mapping[str, float]) -> None:
        """Show losses."""
        losses = "  ".join(f"{name} {value:.3f}" for name, value in values.items())
        if self.show and self.bar.disable:
            rate = self.rate(step)
            left = (self.total - step) * self.batch_size / max(rate, 1e-9)
            self.note(f"{self.name} {step}/{self.total}  {rate:.1f} pictures/s  {clock(left)} left  {losses}")
        else:
            self.bar.update(self.task, losses=losses)

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        if self.show:
            self.bar.console.print(text, highlight=False, markup=False, soft_wrap=True)


def clock(seconds: float) -> str:
    """``3725`` → ``1:02:05``."""
    minutes, second = divmod(int(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02d}:{second:02d}"


def save_picture(picture: Tensor, path: str | os.PathLike[str]) -> None:
    """Write ``[3, H, W]`` in [-1, 1] as a PNG."""
    pixels = ((picture.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 0).numpy()
    with replace_file(path) as temporary:
        Image.fromarray(pixels.astype(np.uint8)).save(temporary, format="PNG")
