"""kill -9 at random moments: a run resumes from its last completed checkpoint, with the bits of an undisturbed one."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from dmgan_fast.cli import EXIT_BAD_INPUT
from tools.faults.rig import PHASES, Broken, Rig, Run, folder_in, require

KILL_MOMENTS = ("any", "any", "any", "step", "save", "save", "save", "sample", "evaluation", "loader worker")
LATER = 0.02  # seconds after a phase has begun
TWICE = 0.3  # share of trials in which the run that continues is killed too


def trial(rig: Rig, number: int, name: str) -> dict[str, Any]:
    """One trial, which depends on its number and on the machine's timing.

    Raises:
        Broken: if a checkpoint is lost or torn, or the run does not end with the same bits.
    """
    chance = random.Random(number)
    told: dict[str, Any] = {"trial": number, "kills": []}
    with folder_in(rig, name) as out:
        for _ in range(2 if chance.random() < TWICE else 1):
            moment = chance.choice(KILL_MOMENTS)
            workers = ("data.workers=1",) if moment == "loader worker" or chance.random() < 0.1 else ()
            run = rig.start(out, *workers)
            _kill(run, moment, chance, rig.seconds)
            step = rig.survives(out, run.board.completed)
            told["kills"].append({"moment": moment, "completed": run.board.completed, "goes on from": step})
        rig.finish(out)
    return told


def _kill(run: Run, moment: str, chance: random.Random, seconds: float) -> None:
    if moment == "any":
        time.sleep(chance.uniform(0, 1.1 * seconds))
    elif moment == "loader worker":
        if run.wait_for(lambda: bool(run.children())):
            time.sleep(chance.uniform(0, 0.3 * seconds))
            for child in run.children()[:1]:
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
        status = run.wait()
        fine = status == 0 or (status == EXIT_BAD_INPUT and "a process that reads data ended" in run.board.said)
        require(fine, f"a killed process that reads ended the run with {status}: {run.board.said}")
        return
    else:
        assert moment in PHASES
        wanted = chance.randrange(4)  # so many times before it
        if run.wait_for(lambda: run.board.get(moment) > wanted):
            time.sleep(chance.uniform(0, LATER))
    run.kill()
    if run.status == 0:
        return  # it was over
    require(run.status == -signal.SIGKILL, f"it ended with {run.status} before it was killed: {run.board.said}")


def trials(rig: Rig, count: int, first: int, name: str) -> tuple[list[dict[str, Any]], list[str]]:
    """So many trials: what happened, and what broke."""
    told, broken = [], []
    for number in range(first, first + count):
        try:
            told.append(trial(rig, number, name))
        except Broken as error:
            broken.append(f"trial {number}: {error}")
            _keep(rig.folder / name, rig.folder / f"broken-{number}")
    return told, broken


def _keep(out: Path, place: Path) -> None:
    if out.exists() and not place.exists():
        out.rename(place)
