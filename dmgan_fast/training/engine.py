"""The loop that both trainings share: batches, progress, logs, samples, checkpoints, signals, non-finite losses.

Several processes go through it in step: the first one writes, measures and says what happens.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from signal import Signals
from typing import Any, NamedTuple, Protocol

import torch
from rich.console import Console
from rich.progress import TextColumn
from torch import Tensor

from dmgan_fast.config import to_dict
from dmgan_fast.data import CaptionedImages, ImageBatch, Purpose, make_loader, open_checked
from dmgan_fast.data.cache import cache_budget
from dmgan_fast.data.loader import batch_bytes, reading
from dmgan_fast.data.workers import helpful_workers, local_processes
from dmgan_fast.devices import pick_device
from dmgan_fast.errors import CheckpointError, InputError, NonFiniteLossError
from dmgan_fast.files import clear_up, load_json, replace_folder, write_text
from dmgan_fast.parallel import Processes, restarted
from dmgan_fast.progress import Progress, in_steps
from dmgan_fast.runs.checkpoints import (
    Checkpoints,
    find_checkpoint,
    latest_checkpoint,
    load_checkpoint,
    newest_whole,
    random_state,
    set_random_state,
    step_of,
)
from dmgan_fast.runs.config import LoopConfig
from dmgan_fast.runs.environment import write_environment
from dmgan_fast.sampling.bundle import BEST, BEST_NAME, CHECKPOINTS, VOCABULARY_NAME, WEIGHTS
from dmgan_fast.training.advice import told_of_training
from dmgan_fast.training.allocator import keep_freed_memory
from dmgan_fast.training.finite import require_finite
from dmgan_fast.training.logs import Log, check_logger, open_board
from dmgan_fast.training.resuming import accept_changes, refuse_changes, refuse_fixed
from dmgan_fast.training.stopping import Stop, stop_on_signals, told_of_readers


class Task(Protocol):
    """What is trained. ``kind`` names its checkpoints; ``config`` is saved with them."""

    kind: str
    config: Any
    device: torch.device

    def step(self, batch: ImageBatch, epoch: int) -> dict[str, Tensor]: ...
    def shard(self) -> None: ...  # where the processes shard what is trained: do it; all call it together
    def whole(self) -> AbstractContextManager[None]: ...  # within, ``sample`` to ``weights`` may be called; likewise
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...
    def sample(self, file: Path) -> dict[str, float]: ...  # generate something to look at; what held-out images say
    def gates(self) -> dict[str, float]: ...  # means of the memory's gates on held-out captions; empty: none
    def measure(self) -> dict[str, float]: ...  # what tells progress; empty: nothing but what ``sample`` says
    def score(self, found: dict[str, float]) -> float | None: ...  # of what was measured; more is better
    def fingerprints(self) -> dict[str, str]: ...  # of data, encoders and vocabulary, by content
    def weights(self, step: int) -> Callable[[Path], None]: ...  # a copy of them as they are, to be written to a folder


LOGS = ("metrics", "validation", "gates", "measures")  # tables of a run


def finish(work: Callable[..., None], config: Any, out: Path, console: Console | None = None) -> None:
    """Run ``work`` (``pretrain`` or ``train``) to completion: start it, resume it, or return if it has finished.

    Raises:
        CheckpointError: if ``out`` holds a run with other settings, or its ``config.json`` can't be read.
    """
    checkpoints, processes = out / CHECKPOINTS, Processes.of()
    done = find_checkpoint(checkpoints, config.loop.steps)
    begun = latest_checkpoint(checkpoints) is not None
    if begun and (out / "config.json").is_file():
        refuse_changes(_saved_config(out / "config.json"), to_dict(config), out / "config.json")
    finished = done is not None and (out / "weights" / VOCABULARY_NAME).is_file()
    begun, finished = processes.from_first((begun, finished))  # before it begins to write
    if not finished:
        work(config, out, resume=begun, console=console)


def _saved_config(file: Path) -> dict[str, Any]:
    try:
        saved = load_json(file)
        if not isinstance(saved, dict):
            raise ValueError("expected an object with the settings")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} can't be read: {error}; restore it, or choose another folder") from None
    return saved


def quiet(processes: Processes) -> Console | None:
    """Where all but the first process write to: nowhere."""
    return None if processes.first else Console(quiet=True)


def open_data(
    config: Any,
    image_sizes: tuple[int, ...],
    processes: Processes,
    console: Console | None,
    *,
    matches: bool = True,
    **settings: Any,
) -> tuple[CaptionedImages, CaptionedImages]:
    """What a run trains on and what it holds out, after a look at both.

    Args:
        image_sizes: resolutions, smallest first.
        matches: see ``data.Purpose``.
        settings: further ones of ``CaptionedImages``.
    """
    loop, data = config.loop, config.data
    purpose = Purpose(image_size=image_sizes[-1], batch_size=loop.batch_size, matches=matches, skip_bad=data.skip_bad)
    console = quiet(processes) or console or Console(stderr=True)
    settings |= {"image_sizes": image_sizes, "max_words": data.max_words, "seed": loop.seed}
    settings |= {"cache_bytes": cache_budget(data.cache, local_processes())}
    return open_checked(data.source, purpose, show=console.out, **settings)


def check_start(out: Path, resume: bool, config: Any, processes: Processes | None = None) -> None:
    """Raise ``CheckpointError`` if ``out`` holds a run and ``resume`` is not set, or holds none to resume, or one with
    settings that can't change; ``InputError`` if what it should be logged with is not installed, or if there are more
    ``processes`` than images in a batch."""
    check_logger(config.loop.logger)
    batch_size, parts = config.loop.batch_size, (processes or Processes()).parts
    if batch_size < parts:
        raise InputError(
            f"loop.batch_size is of all processes together and must be at least their number {parts}"
            f"{'' if config.parallel.rows == 1 else ' of groups that hold an image together'}, got {batch_size}"
        )
    latest = latest_checkpoint(out / CHECKPOINTS)
    if resume and latest is None:
        raise CheckpointError(f"nothing to resume: no checkpoint in {out / CHECKPOINTS}")
    if latest is not None and not resume:
        raise CheckpointError(f"{out} already holds a run (step {latest.stem[5:]}); give --resume or another --out")
    whole, _ = newest_whole(out / CHECKPOINTS)
    if whole is not None:
        refuse_fixed(load_checkpoint(whole, mmap=True)["config"], to_dict(config), whole)


def steps_left(config: Any, out: Path) -> int:
    """Those that ``finish`` will take."""
    latest = latest_checkpoint(out / "checkpoints")
    return max(0, config.loop.steps - (step_of(latest) if latest else 0))


def run(
    task: Task,
    dataset: CaptionedImages,
    out: Path,
    *,
    resume: bool,
    console: Console | None = None,
    processes: Processes | None = None,
) -> None:
    """Train ``task`` on ``dataset`` for ``task.config.loop.steps`` steps.

    The caller holds the lock on ``out`` (``locks.only_writer``). ``out`` gets ``config.json``, ``environment.json``,
    ``metrics.csv``, ``tensorboard/``, ``samples/``, ``checkpoints/`` and ``weights/``; with every sample, a line of
    ``validation.csv`` if the task measures anything on held-out images, and of ``gates.csv`` if it has gates; with
    every measurement a line of ``measures.csv``; and ``best/``, the weights of the best so far. Resumed on a CPU with
    the same number of threads, the result has the same bits as without the stop. Of several
    ``processes`` each calls this, and takes its rows of every batch; all of them must see ``out``, which the first one
    writes.

    Raises:
        CheckpointError: if ``out`` holds a run and ``resume`` is not set, or holds none to resume, or one with other
            settings.
        NonFiniteLossError: naming the step and the images; no checkpoint is written after it.
        OutOfMemory: naming the settings that would make a step fit.
        Interrupted: after Ctrl-C, once the state is saved.
        Preempted: after SIGTERM or SIGUSR1, likewise.
        DataError: if an image can't be read any more, or a process that reads them ended.
    """
    loop: LoopConfig = task.config.loop
    checkpoints = Checkpoints(out / CHECKPOINTS, keep=loop.keep_checkpoints, background=loop.save_in_background)
    processes = processes or Processes()
    first = processes.first
    if loop.keep_freed_memory:
        keep_freed_memory()
    with processes.agreeing():
        check_start(out, resume, task.config, processes)
    if first:
        clear_up(out, out / WEIGHTS, *(out / WEIGHTS).glob("*"))
    latest = checkpoints.newest()  # the first process's choice
    with processes.agreeing():
        begun = _begin(task, dataset, latest, processes)
    fingerprints = task.fingerprints()
    processes.same("what data, encoders and vocabulary hold", fingerprints)
    if first:
        write_text(out / "config.json", json.dumps({"kind": task.kind, **to_dict(task.config)}, indent=2) + "\n")
        write_environment(out, task.device)
    records = _Records(task, out, begun, _Best(task, out / BEST, resume, checkpoints), processes)
    console = quiet(processes) or console or Console(stderr=True)
    workers = _workers(dataset, task.config)
    console.out(reading(dataset, workers))
    columns = (*in_steps(), TextColumn("{task.fields[rate]}"), TextColumn("{task.fields[losses]}"))

    with (
        stop_on_signals() as stop,
        told_of_readers(stop),
        checkpoints,
        records.open(),
        Progress(*columns, console=console, disable=not first) as progress,
        told_of_training(task.config, task.device),
    ):
        bar = progress.add_task(task.kind, total=loop.steps, completed=begun.step, rate="", losses="")
        if begun.step >= loop.steps:  # stopped between the last checkpoint and its weights, perhaps
            with task.whole():
                if first:
                    task.weights(begun.step)(out / WEIGHTS)
        own = _batches(dataset, loop, begun, workers, processes)
        for done, (epoch, batches, batch) in enumerate(processes.side_by_side(own), start=begun.step + 1):
            if done > loop.steps:
                break
            losses = task.step(batch, epoch)
            records.guard.watch(done, batch.keys, losses)
            progress.update(bar, completed=done)
            if records.due(loop.log_every, done):
                rate, shown = records.log(done, losses)
                progress.update(bar, rate=rate, losses=shown)
            if records.due(loop.sample_every, done):
                records.sample(done)
            if records.due(loop.measure_every, done) and (shown := records.measure(done)):
                progress.console.print(shown, soft_wrap=True)
            stopping = _asked_to_stop(stop, processes)
            if records.due(loop.checkpoint_every, done) or stopping:
                records.save(done, epoch, batches, fingerprints)
            if stopping and done < loop.steps:
                checkpoints.wait()
                processes.wait()  # until the first has saved
                told = stop.error(done)
                told.told_elsewhere = not first
                raise told
        checkpoints.wait()
        processes.wait()  # until the first has written everything


def run_together(
    prepare: Callable[..., tuple[Task, CaptionedImages]],
    config: Any,
    out: Path,
    *,
    resume: bool,
    console: Console | None,
) -> None:
    """``run`` what ``prepare`` makes, with the processes that ``torchrun`` started, if it did.

    Started again after one of them had ended, they resume what they had begun: from the last checkpoint if there is
    one, else from the start, whatever ``resume`` says.

    Args:
        prepare: ``(config, out, resume, processes, held, console)`` → the task and its data set; ``held``, an exit
            stack, is open until the run ends.
    """
    given = config.parallel
    with Processes.joined(given.timeout, rows=given.rows, shard=given.shard) as processes, ExitStack() as held:
        if restarted():
            resume = processes.from_first(latest_checkpoint(out / CHECKPOINTS) is not None)
        with processes.agreeing():
            task, dataset = prepare(config, out, resume, processes, held, console)
        task.shard()
        run(task, dataset, out, resume=resume, console=console, processes=processes)


class _Begun(NamedTuple):
    """Where a run continues: steps and seconds done, the epoch, and the batches of it that were seen."""

    step: int = 0
    seconds: float = 0.0
    epoch: int = 0
    batches: int = 0


def _begin(task: Task, dataset: CaptionedImages, latest: Path | None, processes: Processes) -> _Begun:
    if latest is None:
        return _Begun()
    state = load_checkpoint(latest, task.kind)
    old = state.get("fingerprints", {})
    accept_changes(state["config"], to_dict(task.config), old, task.fingerprints(), latest)
    task.load_state_dict(state["task"])
    set_random_state(state["random"])
    if processes.size > 1 and task.device.type == "cuda" and state["random"]["cuda"]:
        torch.cuda.set_rng_state(state["random"]["cuda"][0], task.device)  # of the first process's GPU, on all
    loop: LoopConfig = task.config.loop
    per_epoch = len(make_loader(dataset, loop.batch_size, seed=loop.seed))
    before = state["config"]["loop"]["batch_size"]
    if "epoch" not in state:  # written by an older version
        epoch, batches = divmod(state["step"], per_epoch)
    else:
        epoch, batches = state["epoch"], -(-state["batches"] * before // loop.batch_size)
    if batches >= per_epoch:
        epoch, batches = epoch + 1, 0
    return _Begun(state["step"], state["seconds"], epoch, batches)


def _batches(
    dataset: CaptionedImages, loop: LoopConfig, begun: _Begun, workers: int, processes: Processes
) -> Iterator[tuple[int, int, ImageBatch]]:
    """Batches from there on, with their epoch and the number of its batches so far, without end.

    Of several processes, this one's rows of them.
    """
    loader = make_loader(
        dataset,
        loop.batch_size,
        seed=loop.seed,
        epoch=begun.epoch,
        start_batch=begun.batches,
        endless=True,
        workers=workers,
        device=pick_device(loop.device),
        rows=processes.part(loop.batch_size) if processes.size > 1 else None,
    )
    per_epoch = len(dataset) // loop.batch_size
    for number, batch in enumerate(loader, start=begun.epoch * per_epoch + begun.batches):
        yield number // per_epoch, number % per_epoch + 1, batch


def _asked_to_stop(stop: Stop, processes: Processes) -> bool:
    """Whether any of them was; then all are, by the same signal."""
    number = max(each for (each,) in processes.exchange([stop.by or 0]))
    stop.by = Signals(number) if number else None
    return bool(stop)


def _workers(dataset: CaptionedImages, config: Any) -> int:
    if config.data.workers is not None:
        return int(config.data.workers)
    size = batch_bytes(dataset, config.loop.batch_size)
    return helpful_workers(pick_device(config.loop.device), size, processes=local_processes())


class _Best:
    """Keeps the weights that measure best, in a folder of their own; a resumed run continues from what is there."""

    def __init__(self, task: Task, folder: Path, resume: bool, checkpoints: Checkpoints) -> None:
        self.task, self.folder, self.checkpoints = task, folder, checkpoints
        self.step: int | None = None
        self.score: float | None = None
        if resume and (folder / BEST_NAME).is_file():
            try:
                known = load_json(folder / BEST_NAME)
                self.step, self.score = known["step"], task.score(known["measures"])
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                pass  # measured anew
        checkpoints.best = self.step

    def consider(self, step: int, found: dict[str, float]) -> None:
        """Keep the task's weights if what was found of them is better than all before."""
        score = self.task.score(found) if self.task.config.loop.measure_every else None
        if score is None or (self.score is not None and score <= self.score):
            return
        write = self.task.weights(step)

        def replace() -> None:
            with replace_folder(self.folder) as temporary:
                write(temporary)
                (temporary / BEST_NAME).write_text(json.dumps({"step": step, "measures": found}, indent=2) + "\n")

        self.checkpoints.later(replace)
        self.step = self.checkpoints.best = step
        self.score = score


class _Records:
    """What a run writes down while it trains: tables, samples, measurements, checkpoints.

    All processes call each method together; the first one writes.
    """

    def __init__(self, task: Task, out: Path, begun: _Begun, best: _Best, processes: Processes) -> None:
        self.started = time.monotonic() - begun.seconds
        self.task, self.out, self.best, self.processes = task, out, best, processes
        self.loop: LoopConfig = task.config.loop
        self.guard = _Guard(self.loop, processes)
        self.board = open_board(task.config, out, begun.step, writes=processes.first)
        self.logs = {name: Log(out / f"{name}.csv", self.board, begun.step, writes=processes.first) for name in LOGS}
        self.begun, self.opened = begun.step, self.started

    @contextmanager
    def open(self) -> Iterator[None]:
        """Within, they may be called."""
        with self.board, ExitStack() as tables:
            for log in self.logs.values():
                tables.enter_context(log)
            self.opened = time.monotonic()
            yield

    def due(self, every: int, step: int) -> bool:
        """Whether to do after a step what is done after every so many and after the last; 0: never."""
        return every > 0 and (step % every == 0 or step == self.loop.steps)

    def log(self, step: int, losses: dict[str, Tensor]) -> tuple[str, str]:
        """What the progress bar says of it: steps a second, and the last losses."""
        self.guard.check()
        values = {name: float(value) for name, value in losses.items()}
        rate = (step - self.begun) / (time.monotonic() - self.opened)
        self._write("metrics", step, values)
        self.board.scalars("throughput", {"images_per_second": rate * self.loop.batch_size}, step)
        return f"{rate:.2f} steps/s", _shown(list(values.items())[-3:])

    def sample(self, step: int) -> None:
        """Something to look at, and what it says of the weights."""
        file = self.out / "samples" / f"step-{step:08d}.png"
        with self.task.whole():
            if not self.processes.first:
                return
            found = self.task.sample(file)
            self.board.image("samples", file, step)
            self._write("gates", step, self.task.gates())
            self._consider("validation", step, found)

    def measure(self, step: int) -> str:
        """What there is to say; empty if nothing is measured."""
        self.guard.check()
        with self.task.whole():
            found = self.task.measure() if self.processes.first else {}
            self._consider("measures", step, found)
        if not found:
            return ""
        return f"step {step}: {_shown(found.items())}{', the best so far' if self.best.step == step else ''}"

    def save(self, step: int, epoch: int, batches: int, fingerprints: dict[str, str]) -> None:
        """Write a checkpoint and the weights; ``batches``: those of this epoch so far."""
        self.guard.check()
        learned = self.task.state_dict()
        with self.processes.agreeing():
            require_finite(learned, step)
        state = {
            "kind": self.task.kind,
            "config": to_dict(self.task.config),
            "step": step,
            "epoch": epoch,
            "batches": batches,
            "seconds": time.monotonic() - self.started,
            "random": random_state(),
            "fingerprints": fingerprints,
            "vocabulary_fingerprint": fingerprints["vocabulary"],
            "task": learned,
        }
        with self.task.whole():
            write = partial(self.task.weights(step), self.out / WEIGHTS) if self.processes.first else None
        self.best.checkpoints.save(state, then=write)

    def _consider(self, table: str, step: int, found: dict[str, float]) -> None:
        if found:
            self._write(table, step, found)
            self.best.consider(step, found)

    def _write(self, table: str, step: int, values: dict[str, float]) -> None:
        self.logs[table].write(step, time.monotonic() - self.started, values)


def _shown(values: Iterable[tuple[str, float]]) -> str:
    return "  ".join(f"{name} {value:.3g}" for name, value in values)


class _Guard:
    """Watches for non-finite losses without waiting for the device at each step."""

    def __init__(self, loop: LoopConfig, processes: Processes) -> None:
        self.processes = processes
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
        own = next((keys for number, keys in self.recent if number == step), [])
        parts = self.processes.objects(own)  # losses are alike on all processes; some may have the same images
        keys = list(dict.fromkeys(key for part in parts for key in part))
        told = NonFiniteLossError(
            f"a loss is not finite at step {int(step)}, on the batch of {', '.join(keys[:8])}"
            f"{', ...' if len(keys) > 8 else ''}; the last checkpoint is from before"
        )
        told.told_elsewhere = not self.processes.first
        raise told
