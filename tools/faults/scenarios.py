"""Faults one by one, each with what must hold. A scenario returns what it saw, or raises ``Broken``."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import torch

from dmgan_fast.cli import EXIT_BAD_INPUT, EXIT_REQUEUE
from dmgan_fast.runs.checkpoints import steps_of
from dmgan_fast.training.trainer import GANTask
from tools.faults import elastic
from tools.faults import rig as machine
from tools.faults.rig import STEPS, Board, Impossible, Rig, Run, folder_in, fork, require

Scenario = Callable[[Rig], str]
RACES = 10
NO_CACHE = "data.cache=0"  # else decoded images stay in memory
FLIPS = 20
_ALL: dict[str, Scenario] = {}


def scenario(name: str) -> Callable[[Scenario], Scenario]:
    def add(function: Scenario) -> Scenario:
        _ALL[name] = function
        return function

    return add


def scenarios() -> dict[str, Scenario]:
    """By name."""
    return dict(_ALL)


def _stop_at(number: int, what: Callable[[], object]) -> Callable[[], None]:
    """Before the run: do ``what`` at the end of its step ``number``."""

    def prepare() -> None:
        step, seen = GANTask.step, 0

        def taken(*args: object) -> object:
            nonlocal seen
            seen += 1
            result = step(*args)  # type: ignore[arg-type]
            if seen == number:
                what()
            return result

        GANTask.step = taken  # type: ignore[method-assign,assignment]

    return prepare


def _refused(run: Run, *words: str, status: int = EXIT_BAD_INPUT) -> str:
    """What a run said when it ended on its own account."""
    ended = run.wait()
    said = run.board.said
    require(ended == status, f"it ended with {ended}, expected {status}: {said}")
    missing = [word for word in words if word not in said]
    require(not missing, f"its message does not name {', '.join(missing)}: {said}")
    require("\n" not in said, f"its message is not one paragraph: {said}")
    return said


def _host(rig: Rig, work: Callable[[Board], None]) -> str:
    """Do ``work`` in a process with mounts of its own; what it says."""

    def alone(board: Board) -> None:
        machine.own_mounts()
        work(board)

    host = fork(alone)
    status = host.wait(3 * machine.LIMIT)
    if host.board.said.startswith(Impossible.__name__):
        raise Impossible(host.board.said.partition(": ")[2])
    require(status == 0, host.board.said)
    return host.board.said


# ---------------------------------------------------------------------------------------------------------- full disks


@scenario("disk full")
def disk_full(rig: Rig) -> str:
    """A checkpoint that has no room is refused with the room that it takes; with room the run continues."""

    def work(board: Board) -> None:
        disk = rig.folder / "disk"
        machine.small_disk(disk, 64 << 20)
        started = rig.start(disk / "probe", "loop.steps=1")
        require(started.wait() == 0, started.board.said)
        used = sum(file.stat().st_size for file in (disk / "probe").rglob("*") if file.is_file())
        shutil.rmtree(disk / "probe")
        machine.small_disk(disk, used + (1 << 20))
        run = rig.start(disk / "run")
        said = _refused(run, "could not be written", "older ones are intact")
        step = rig.survives(disk / "run", run.board.completed)
        machine.small_disk(disk, 64 << 20)
        rig.finish(disk / "run")
        board.say(f"refused after step {step}: {said[:200]}")

    return _host(rig, work)


@scenario("file size limit")
def file_size_limit(rig: Rig) -> str:
    """As a full disk, where the system limits files."""
    with folder_in(rig, "limit") as out:
        whole = max(file.stat().st_size for file in (rig.whole / "checkpoints").glob("step-*.pt"))
        run = rig.start(out, before=_stop_at(3, lambda: machine.largest_file(whole // 2)))
        said = _refused(run, "could not be written")
        step = rig.survives(out, run.board.completed)
        rig.finish(out)
    return f"refused after step {step}: {said[:200]}"


@scenario("read-only folder")
def read_only_folder(rig: Rig) -> str:
    """A folder that can't be written is refused at the start and in between; nothing in it is harmed."""

    def work(board: Board) -> None:
        out = rig.folder / "readonly"
        stopped = rig.start(out, before=_stop_at(2, lambda: signal.raise_signal(signal.SIGTERM)))
        require(stopped.wait() == EXIT_REQUEUE, stopped.board.said)
        machine.read_only(out)
        said = _refused(rig.start(out), str(out), "can't be written")
        machine.read_only(out, False)
        rig.finish(out)
        shutil.rmtree(out)
        board.say(said)

    return _host(rig, work)


# ------------------------------------------------------------------------------------------------- damaged checkpoints


def _stopped(rig: Rig, out: Path, step: int = 4, images: Path | None = None) -> None:
    run = rig.start(out, images=images, before=_stop_at(step, lambda: signal.raise_signal(signal.SIGTERM)))
    require(run.wait() == EXIT_REQUEUE, f"status {run.status}: {run.board.said}")


def _damage(rig: Rig, name: str, spoil: Callable[[bytes], bytes]) -> None:
    """The newest checkpoint is damaged: the run continues from the one before."""
    with folder_in(rig, name) as out:
        _stopped(rig, out)
        newest = max((out / "checkpoints").glob("step-*.pt"))
        newest.write_bytes(spoil(newest.read_bytes()))
        run = rig.finish(out)
        taken = run.board.get("step")
        require(taken == STEPS - 3, f"it took {taken} steps, not the {STEPS - 3} after the checkpoint before")


@scenario("truncated checkpoint")
def truncated(rig: Rig) -> str:
    """At every tenth of its length."""
    for tenth in range(0, 10, 3):
        _damage(rig, "truncated", lambda content, tenth=tenth: content[: len(content) * tenth // 10])
    return "4 lengths: each time it went on from the checkpoint before"


@scenario("bit-flipped checkpoint")
def flipped(rig: Rig) -> str:
    """One bit anywhere is found: the newest is not read, the one before is."""
    chance = random.Random(0)

    def flip(content: bytes) -> bytes:
        at = chance.randrange(len(content))
        return content[:at] + bytes([content[at] ^ (1 << chance.randrange(8))]) + content[at + 1 :]

    for _ in range(4):
        _damage(rig, "flipped", flip)
    with folder_in(rig, "flips") as out:
        _stopped(rig, out)
        newest = max((out / "checkpoints").glob("step-*.pt"))
        content = newest.read_bytes()
        for _ in range(FLIPS):
            newest.write_bytes(flip(content))
            try:
                step = rig.survives(out, 4)
            except machine.Broken:
                continue
            raise machine.Broken(f"a flipped bit was not noticed, the checkpoint of step {step} was taken")
    return f"4 runs went on from the checkpoint before; {FLIPS} more flips were all noticed"


@scenario("every checkpoint damaged")
def all_damaged(rig: Rig) -> str:
    """Then the run refuses, and names them; it does not begin anew over them."""
    with folder_in(rig, "damaged") as out:
        _stopped(rig, out)
        files = sorted((out / "checkpoints").glob("step-*.pt"))
        for file in files:
            file.write_bytes(file.read_bytes()[:100])
        said = _refused(rig.start(out), *(file.name for file in files))
        require(all(file.is_file() for file in files), "a damaged checkpoint was removed")
    return said[:200]


# -------------------------------------------------------------------------------------------------------------- images


def _images(rig: Rig, name: str) -> Path:
    place = rig.folder / name
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(rig.images, place)
    return place


@scenario("vanished image")
def vanished(rig: Rig) -> str:
    """Named at the start, and in the middle of a run too, which then continues once it is back."""
    images = _images(rig, "vanishing")
    victims = sorted(images.glob("train-*.png"))

    def vanish() -> None:
        for file in victims:
            file.rename(file.with_suffix(".gone"))

    with folder_in(rig, "vanished") as out:
        run = rig.start(out, NO_CACHE, images=images, before=_stop_at(2, vanish))
        during = _refused(run, "train-", "not found")
        step = rig.survives(out, run.board.completed)
        require(step >= run.board.get("step") - 1, f"{run.board.get('step')} steps were taken, {step} are saved")
        _refused(rig.start(out, images=images), "train-")
        for file in victims:
            file.with_suffix(".gone").rename(file)
        rig.finish(out, images=images)
    shutil.rmtree(images)
    return during[:200]


@scenario("changed image")
def changed(rig: Rig) -> str:
    """One that becomes unreadable in the middle of a run is named; one that becomes another does no harm to the run."""
    images = _images(rig, "changing")
    victims = {file: file.read_bytes() for file in sorted(images.glob("train-*.png"))}

    def spoil() -> None:
        for file, content in victims.items():
            file.write_bytes(content[: len(content) // 2])

    with folder_in(rig, "changed") as out:
        run = rig.start(out, NO_CACHE, images=images, before=_stop_at(2, spoil))
        said = _refused(run, "train-", "can't be read")
        rig.survives(out, run.board.completed)
        for file, content in victims.items():
            file.write_bytes(content)
        rig.finish(out, images=images)
    with folder_in(rig, "changed") as out:
        _stopped(rig, out, images=images)
        one, other = list(victims)[:2]
        one.write_bytes(victims[other] + b" ")
        run = rig.start(out, images=images)
        require(run.wait() == 0, f"another image ended the run: {run.board.said}")
    shutil.rmtree(images)
    return said[:200]


# ------------------------------------------------------------------------------------------------------------- numbers


@scenario("NaN in a gradient")
def nan_gradient(rig: Rig) -> str:
    """No checkpoint holds it; without it the run continues with the same bits."""

    def poison() -> None:
        step, seen = GANTask.step, 0

        def taken(task: GANTask, *args: object) -> object:
            nonlocal seen
            seen += 1
            if seen == 4:
                (*_, weight) = task.train_step.generator.parameters()
                weight.register_hook(lambda gradient: gradient * torch.nan)
            return step(task, *args)  # type: ignore[arg-type]

        GANTask.step = taken  # type: ignore[method-assign,assignment]

    with folder_in(rig, "nan") as out:
        run = rig.start(out, before=poison)
        said = _refused(run, "not finite", "step 4")
        require(max(steps_of(out / "checkpoints")) == 3, f"checkpoints of steps {steps_of(out / 'checkpoints')}")
        rig.finish(out)
    return said[:200]


# ------------------------------------------------------------------------------------------------------------- signals


@scenario("SIGTERM and SIGUSR1")
def signals(rig: Rig) -> str:
    """Saves, ends with the status that asks to be queued again, continues with the same bits; to all processes too."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        for workers in (0, 2):
            with folder_in(rig, "signal") as out:
                options = (f"data.workers={workers}",)
                run = rig.start(out, *options)
                run.wait_for(lambda run=run: run.board.get("step") >= 2)
                run.kill(number)  # the whole group
                said = _refused(run, number.name, "--resume", status=EXIT_REQUEUE)
                rig.survives(out, run.board.completed)
                rig.finish(out, *options)
    return said


@scenario("clock set back")
def clock(rig: Rig) -> str:
    """Neither the order of checkpoints nor what is learned depends on the clock."""

    def backwards() -> None:
        now, calls = time.time(), 0

        def earlier() -> float:
            nonlocal calls
            calls += 1
            return now - 3600.0 * calls

        time.time = earlier
        time.time_ns = lambda: int(earlier() * 1e9)

    def prepare() -> None:
        backwards()
        _stop_at(3, lambda: signal.raise_signal(signal.SIGTERM))()

    with folder_in(rig, "clock") as out:
        run = rig.start(out, before=prepare)
        require(run.wait() == EXIT_REQUEUE, f"status {run.status}: {run.board.said}")
        for age, file in enumerate(sorted((out / "checkpoints").glob("step-*"))):
            os.utime(file, (2e9 - 1e6 * age, 2e9 - 1e6 * age))  # the newest looks oldest, all are of the future
        rig.finish(out)
    return "an hour back at every look, and files of the future: the same bits"


# ------------------------------------------------------------------------------------------------------------ two runs


@scenario("two runs on one folder")
def two_runs(rig: Rig) -> str:
    """One trains, the other is refused and names it; nobody is disturbed."""
    with folder_in(rig, "two") as out:
        first = rig.start(out)
        first.wait_for(lambda: first.board.get("step") >= 1)
        said = _refused(rig.start(out), str(out), "is being written by process", str(first.pid))
        require(first.wait() == 0, first.board.said)
        rig.compare(out)
    for _ in range(RACES):
        with folder_in(rig, "race") as out:
            pair = [rig.start(out, "loop.steps=1"), rig.start(out, "loop.steps=1")]
            statuses = sorted(run.wait() for run in pair)
            messages = [run.board.said for run in pair if run.status]
            fine = all("being written" in text or "already holds a run" in text for text in messages)
            require(0 in statuses and fine, f"of two at once: {statuses}, {messages}")
    return f"{said[:120]}; {RACES} races: one of two each time"


# ---------------------------------------------------------------------------------------------------- several processes


@scenario("one of two processes killed")
def one_killed(rig: Rig) -> str:
    """Under ``torchrun --max-restarts`` both start again and go on from the last completed checkpoint."""
    with folder_in(rig, "one-killed") as folder:
        folder.mkdir()
        return elastic.goes_on(rig, folder, [("killed", 1)])


@scenario("one of two processes hangs")
def one_hangs(rig: Rig) -> str:
    """Likewise, once the other has waited for it ``parallel.timeout`` seconds; also the first process, killed."""
    with folder_in(rig, "one-hangs") as folder:
        folder.mkdir()
        return elastic.goes_on(rig, folder, [("stopped", 1), ("killed", 0)])
