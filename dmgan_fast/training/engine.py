"""The loop that both trainings share: batches, progress, logs, samples, checkpoints, Ctrl-C, non-finite losses."""

from __future__ import annotations

import csv
import json
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from dmgan_fast.config import to_dict
from dmgan_fast.data import CaptionedPictures, PictureBatch, make_loader
from dmgan_fast.errors import CheckpointError, Interrupted, NonFiniteLossError
from dmgan_fast.files import replace_file
from dmgan_fast.training.allocator import keep_freed_memory
from dmgan_fast.training.config import DataConfig, LoopConfig
from dmgan_fast.training.state import (
    checkpoint_file,
    latest_checkpoint,
    load_checkpoint,
    random_state,
    save_checkpoint,
    set_random_state,
)
from dmgan_fast.training.weights import VOCABULARY_NAME

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Task(Protocol):
    """What is trained. ``kind`` names its checkpoints; ``config`` is saved with them."""

    kind: str
    config: Any

    def step(self, batch: PictureBatch, epoch: int) -> dict[str, Tensor]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...
    def sample(self, file: Path) -> dict[str, float]: ...  # draw something to look at; what held-out pictures say
    def save_weights(self, folder: Path, step: int) -> None: ...


def pick_device(name: str) -> torch.device:
    """``"auto"``: a GPU if there is one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def finish(work: Callable[..., None], config: Any, out: Path, console: Console | None = None) -> None:
    """Do what of ``work`` (``pretrain`` or ``train``) is not done yet: start it, go on after a stop, or leave it alone.

    Raises:
        CheckpointError: if ``out`` holds a run with other settings.
    """
    checkpoints = out / "checkpoints"
    done = checkpoint_file(checkpoints, config.loop.steps)
    if not (done.is_file() and (out / "weights" / VOCABULARY_NAME).is_file()):
        work(config, out, resume=latest_checkpoint(checkpoints) is not None, console=console)
        return
    _same_config(json.loads((out / "config.json").read_text(encoding="utf-8")), to_dict(config), done)


def run(task: Task, dataset: CaptionedPictures, out: Path, *, resume: bool, console: Console | None = None) -> None:
    """Train ``task`` on ``dataset`` for ``task.config.loop.steps`` steps.

    ``out`` gets ``config.json``, ``metrics.csv``, ``tensorboard/``, ``samples/``, ``checkpoints/`` and ``weights/``;
    and, with every sample, a line of ``validation.csv`` if the task measures anything on held-out pictures.
    Resumed on a CPU with the same number of threads, the result has the same bits as without the stop.

    Raises:
        CheckpointError: if ``out`` holds a run and ``resume`` is not set, or holds none to resume.
        NonFiniteLossError: naming the step and the pictures; no checkpoint is written after it.
        Interrupted: after Ctrl-C, once the state is saved.
    """
    loop: LoopConfig = task.config.loop
    data: DataConfig = task.config.data
    checkpoints = out / "checkpoints"
    if loop.keep_freed_memory:
        keep_freed_memory()
    done, seconds = _begin(task, checkpoints, resume)
    with replace_file(out / "config.json") as temporary:
        temporary.write_text(json.dumps({"kind": task.kind, **to_dict(task.config)}, indent=2) + "\n")
    started = time.monotonic() - seconds
    guard, log = _Guard(loop), _Log(out / "metrics.csv", out / "tensorboard", done)
    validation = _Log(out / "validation.csv", out / "tensorboard" / "validation", done)
    console = console or Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[losses]}"),
    )

    def save(step: int) -> None:
        guard.check()
        state = {
            "kind": task.kind,
            "config": to_dict(task.config),
            "step": step,
            "seconds": time.monotonic() - started,
            "random": random_state(),
            "task": task.state_dict(),
        }
        save_checkpoint(checkpoint_file(checkpoints, step), state, loop.keep_checkpoints)
        task.save_weights(out / "weights", step)

    with _ctrl_c() as stop, log, validation, Progress(*columns, console=console) as progress:
        bar = progress.add_task(task.kind, total=loop.steps, completed=done, rate="", losses="")
        begin, first = time.monotonic(), done
        for epoch, batch in _batches(dataset, loop, data, done):
            if done >= loop.steps:
                break
            losses = task.step(batch, epoch)
            done += 1
            guard.watch(done, batch.keys, losses)
            progress.update(bar, completed=done)
            if done % loop.log_every == 0 or done == loop.steps:
                guard.check()
                values = {name: float(value) for name, value in losses.items()}
                log.write(done, time.monotonic() - started, values)
                rate = (done - first) / (time.monotonic() - begin)
                shown = "  ".join(f"{name} {value:.3g}" for name, value in list(values.items())[-3:])
                progress.update(bar, rate=f"{rate:.2f} steps/s", losses=shown)
            if done % loop.sample_every == 0 or done == loop.steps:
                found = task.sample(out / "samples" / f"step-{done:08d}.png")
                if found:
                    validation.write(done, time.monotonic() - started, found)
            if done % loop.checkpoint_every == 0 or done == loop.steps or stop:
                save(done)
            if stop and done < loop.steps:
                raise Interrupted(f"stopped at step {done}; the state is saved, --resume continues it")


def _begin(task: Task, checkpoints: Path, resume: bool) -> tuple[int, float]:
    """Steps and seconds already done."""
    latest = latest_checkpoint(checkpoints)
    if not resume:
        if latest is not None:
            raise CheckpointError(
                f"{checkpoints.parent} already holds a run (step {latest.stem[5:]}); give --resume or another --out"
            )
        return 0, 0.0
    if latest is None:
        raise CheckpointError(f"nothing to resume: no checkpoint in {checkpoints}")
    state = load_checkpoint(latest, task.kind)
    _same_config(state["config"], to_dict(task.config), latest)
    task.load_state_dict(state["task"])
    set_random_state(state["random"])
    return state["step"], state["seconds"]


def _same_config(saved: dict[str, Any], given: dict[str, Any], file: Path) -> None:
    """Only the length of a run, its reporting and what it keeps in memory may change on resuming."""
    free = {
        "kind",
        "steps",
        "log_every",
        "sample_every",
        "checkpoint_every",
        "keep_checkpoints",
        "device",
        "workers",
        "skip_bad",
        "memory",
        "cuda_graph",
        "keep_freed_memory",
    }
    changed = [
        f"{section}.{key}" if isinstance(value, dict) else section
        for section, value in saved.items()
        for key in (value if isinstance(value, dict) else [section])
        if (isinstance(value, dict) and key not in free and (given.get(section) or {}).get(key) != value[key])
        or (not isinstance(value, dict) and section not in free and given.get(section) != value)
    ]
    if changed:
        raise CheckpointError(f"{file} was trained with other settings; these differ: {', '.join(changed)}")


def _batches(
    dataset: CaptionedPictures, loop: LoopConfig, data: DataConfig, done: int
) -> Iterator[tuple[int, PictureBatch]]:
    """Batches from step ``done`` on, with their epoch, without end."""
    per_epoch = len(make_loader(dataset, loop.batch_size, seed=loop.seed))
    epoch, start = divmod(done, per_epoch)
    while True:
        loader = make_loader(
            dataset,
            loop.batch_size,
            seed=loop.seed,
            epoch=epoch,
            start_batch=start,
            workers=data.workers,
            pin_memory=pick_device(loop.device).type == "cuda",
        )
        for batch in loader:
            yield epoch, batch
        epoch, start = epoch + 1, 0


class _Guard:
    """Watches for non-finite losses without waiting for the device at each step."""

    def __init__(self, loop: LoopConfig) -> None:
        self.recent: deque[tuple[int, list[str]]] = deque(maxlen=max(loop.log_every, 1))
        self.bad_step: Tensor | None = None

    def watch(self, step: int, keys: list[str], losses: dict[str, Tensor]) -> None:
        self.recent.append((step, keys))
        finite = torch.stack([value.float() for value in losses.values()]).isfinite().all()
        here = torch.where(finite, torch.inf, float(step)).double()
        self.bad_step = here if self.bad_step is None else torch.minimum(self.bad_step, here)

    def check(self) -> None:
        """Raise if any step since the start was not finite."""
        if self.bad_step is None or (step := float(self.bad_step)) == torch.inf:
            return
        keys = next((keys for number, keys in self.recent if number == step), [])
        raise NonFiniteLossError(
            f"a loss is not finite at step {int(step)}, on the batch of {', '.join(keys[:8])}"
            f"{', ...' if len(keys) > 8 else ''}; the last checkpoint is from before"
        )


class _Log:
    """A table and TensorBoard; on resuming, rows after the resumed step are dropped."""

    def __init__(self, file: Path, board: Path, done: int) -> None:
        self.file, self.board, self.done = file, board, done
        self.writer: SummaryWriter | None = None
        self.rows: list[dict[str, str]] = []
        if done and self.file.is_file():
            with self.file.open(newline="") as stream:
                self.rows = [row for row in csv.DictReader(stream) if int(row["step"]) <= done]

    def __enter__(self) -> _Log:
        if self.rows or self.file.exists():
            with replace_file(self.file) as temporary:
                self._rewrite(temporary)
        return self

    def __exit__(self, *_: object) -> None:
        if self.writer is not None:
            self.writer.close()

    def write(self, step: int, seconds: float, values: dict[str, float]) -> None:
        row = {"step": str(step), "seconds": f"{seconds:.1f}"} | {name: repr(value) for name, value in values.items()}
        first = not self.rows
        self.rows.append(row)
        with self.file.open("a", newline="") as stream:
            writer = csv.DictWriter(stream, list(row))
            if first:
                writer.writeheader()
            writer.writerow(row)
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(self.board), purge_step=self.done + 1 if self.done else None)
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def _rewrite(self, file: Path) -> None:
        with file.open("w", newline="") as stream:
            if self.rows:
                writer = csv.DictWriter(stream, list(self.rows[0]))
                writer.writeheader()
                writer.writerows(self.rows)


class _Stop:
    """True once Ctrl-C was pressed."""

    pressed = False

    def __bool__(self) -> bool:
        return self.pressed


@contextmanager
def _ctrl_c() -> Iterator[_Stop]:
    """First Ctrl-C: finish the step and stop. Second: stop at once."""
    stop = _Stop()

    def press(number: int, frame: FrameType | None) -> None:
        if stop.pressed:
            raise KeyboardInterrupt
        stop.pressed = True

    try:
        before = signal.signal(signal.SIGINT, press)
    except ValueError:  # not in the main thread: the caller handles signals
        yield stop
        return
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
