"""Runs stages one after the other, each in a process of its own under a time limit; rows go to a file as they come.

A stage that hangs is killed with all that it started; one that fails or crashes is told; the next begins. What a stage
leaves of its time is shared among those after it.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import connection, get_context, set_forkserver_preload
from pathlib import Path
from typing import Any, NamedTuple

Row = dict[str, Any]
SLOW_IMPORTS = ("torch._dynamo", "torch.utils.tensorboard")  # of a first training step
DONE, SKIPPED, FAILED, CUT_OFF, CRASHED = "done", "skipped", "failed", "cut off", "crashed"


class Skipped(Exception):
    """Raised by a stage that this machine can't run, with the reason."""


class Stage(NamedTuple):
    """``function``: ``module:name`` of what yields rows, given ``Options``; ``share``: of the time; ``least``: seconds
    that it may take, if there are so many."""

    name: str
    function: str
    share: float
    least: float = 1.0


@dataclass(frozen=True)
class Options:
    """What every stage is given. ``seconds``: its time limit, which is the runner's to set. ``scratch``: a folder for
    what nobody needs afterwards; None: the results'. ``needed``: modules that stages import."""

    out: Path
    device: str = "cuda"
    tiny: bool = False
    workers: int = 4
    seconds: float = 0.0
    scratch: Path | None = None
    needed: tuple[str, ...] = ()

    @property
    def journal(self) -> Path:
        return self.out / "card.jsonl"


def run_all(
    stages: Iterable[Stage], options: Options, seconds: float, after_each: Callable[[], Any] = lambda: None
) -> list[Row]:
    """Runs the stages within ``seconds``; one line of each, with ``status``, is printed, written and returned.

    Without the first, which says what this machine is, the others are not run. ``after_each``: called when a stage has
    ended, and when this is stopped.
    """
    left, end, results = list(stages), time.monotonic() + seconds, []
    # What stages import, the process that they are forked from has imported once.
    set_forkserver_preload([__name__, *{stage.function.partition(":")[0] for stage in left}, *SLOW_IMPORTS])
    while left:
        stage = left[0]
        share = stage.share / sum(each.share for each in left)
        there = end - time.monotonic()
        try:
            result = run(stage, replace(options, seconds=max(1.0, there * share, min(there, stage.least))))
            write(options.journal, result)
        finally:
            after_each()
        print(f"{stage.name}: {result['status']} after {result['seconds']} s {result.get('why', '')}", flush=True)
        results.append(result)
        left = left[1:] if result["status"] == DONE or len(results) > 1 else []
    return results


def run(stage: Stage, options: Options) -> Row:
    """One stage: its name, status, seconds and, unless it was done, why."""
    begin = time.monotonic()
    context = get_context("forkserver")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_body, args=(stage, options, sender))
    process.start()
    sender.close()
    try:
        connection.wait([receiver, process.sentinel], timeout=options.seconds)
    except BaseException:  # this process is to end: so does what it started
        _end(process)
        write(options.journal, {"stage": stage.name, "status": CUT_OFF, "seconds": _since(begin), "why": "stopped"})
        raise
    status, why = CUT_OFF, f"its limit was {options.seconds:.0f} s"
    try:
        if receiver.poll(0):
            status, why = receiver.recv()
        elif not process.is_alive():
            raise EOFError
    except EOFError:
        process.join()
        status, why = CRASHED, _exit_of(process.exitcode)
    _end(process)
    row = {"stage": stage.name, "status": status, "seconds": _since(begin)}
    return row | ({"why": why} if why else {})


def _since(begin: float) -> float:
    return round(time.monotonic() - begin, 1)


def _exit_of(code: int | None) -> str:
    return f"ended by {signal.Signals(-code).name}" if code and code < 0 else f"left with status {code}"


def _end(process: Any) -> None:
    """The process and all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # it has no group of its own yet, or is gone
        process.kill()
    process.join()


def _body(stage: Stage, options: Options, sender: Any) -> None:
    os.setsid()
    # Where the command was started in the background, Ctrl-C is ignored, by which training is told to end.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    log = os.open(options.out / "card.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    print(f"== {stage.name}", flush=True)
    module, _, name = stage.function.partition(":")
    try:
        for row in getattr(importlib.import_module(module), name)(options):
            write(options.journal, {"stage": stage.name} | row)
        told = DONE, ""
    except Skipped as reason:
        told = SKIPPED, str(reason)
    except Exception as error:
        traceback.print_exc()
        told = FAILED, f"{type(error).__name__}: {error}"[:500]
    sys.stdout.flush()
    sender.send(told)


def write(file: Path, row: Row) -> None:
    """On a line of its own, also where the last one was cut off."""
    cut = file.exists() and not file.read_bytes().endswith(b"\n") and file.stat().st_size
    with file.open("a", encoding="utf-8") as lines:
        lines.write(("\n" if cut else "") + json.dumps(row) + "\n")


def rows_of(file: Path) -> list[Row]:
    """The rows so far; a line that was cut off, as its stage was, is left out."""
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        with suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows
