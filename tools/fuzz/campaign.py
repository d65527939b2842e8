"""Many cases in child processes: a case that takes the process down or does not end is a fault like any other."""

from __future__ import annotations

import mmap
import os
import resource
import shutil
import signal
import struct
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

from tools.fuzz.verdict import Fault, Target, judge

BATCH = 500  # cases of one run of hypothesis, which remembers all that it has seen
MEMORY = 3 << 30  # bytes that a child may take beyond what it has at its start
PAUSE = 1.0  # seconds; more between two looks means that all processes were halted for a while
RESTARTS = 50  # children that may die before a target is given up
KEPT = 25  # faults that are told; the rest is counted
_HEAD = struct.Struct("<QQQQ")  # cases, refused, accepted, faults
_WORD = 1 << 14  # bytes for the case at work
_FAULTS = 1 << 20


@dataclass
class Row:
    """What came out for one target."""

    name: str
    kind: str
    cases: int = 0
    refused: int = 0
    accepted: int = 0
    failures: int = 0
    seconds: float = 0.0
    examples: list[dict[str, str]] = field(default_factory=list)  # of failures: what happened, and the case

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Shared:
    """What a child says while it works, in memory that outlives it."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, _HEAD.size + _WORD + _FAULTS)
        self.written = 0

    def begin(self, case: str) -> None:
        content = case.encode(errors="replace")[: _WORD - 1]
        self.memory[_HEAD.size : _HEAD.size + len(content) + 1] = content + b"\0"

    @property
    def case(self) -> str:
        """The case at work."""
        return bytes(self.memory[_HEAD.size : _HEAD.size + _WORD]).split(b"\0")[0].decode(errors="replace")

    @property
    def counts(self) -> tuple[int, ...]:
        """Cases, refused, accepted, faults."""
        return _HEAD.unpack_from(self.memory)

    def count(self, place: int) -> None:
        values = list(self.counts)
        values[0] += 1
        values[place] += 1
        _HEAD.pack_into(self.memory, 0, *values)

    def tell(self, what: str, case: str) -> None:
        text = f"{what}\0{case}\1".encode(errors="replace")
        start = _HEAD.size + _WORD + self.written
        if self.written + len(text) < _FAULTS:
            self.memory[start : start + len(text)] = text
            self.written += len(text)

    @property
    def told(self) -> list[dict[str, str]]:
        content = bytes(self.memory[_HEAD.size + _WORD :]).rstrip(b"\0").decode(errors="replace")
        parts = (entry.partition("\0") for entry in content.split("\1") if entry)
        return [{"what": what, "case": case} for what, _, case in parts]


def run_cases(target: Target, count: int, number: int, done: Callable[[Any, str, str], None]) -> None:
    """Run cases in this process.

    Args:
        target: what gets them.
        count: how many.
        number: of the seed.
        done: takes each case, its outcome (``"accepted"``, ``"refused"`` or ``"failed"``) and what happened.
    """
    left = count
    while left > 0:
        size, before = min(BATCH, left), left

        @seed(number)
        @settings(
            max_examples=size,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(target.cases)
        def one(case: Any) -> None:
            nonlocal left
            if left <= 0:
                return
            left -= 1
            try:
                done(case, judge(target, case), "")
            except Fault as fault:
                done(case, "failed", str(fault))

        one()
        number += 1
        if left == before:  # no case was made: the strategy has none
            raise RuntimeError(f"{target.name}: no cases")


def _child(target: Target, count: int, number: int, shared: Shared) -> None:
    torch.set_num_threads(1)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    places = {"refused": 1, "accepted": 2, "failed": 3}

    def done(case: Any, outcome: str, what: str) -> None:
        if what:
            shared.tell(what, repr(case))
        shared.count(places[outcome])

    run_cases(_watched(target, shared), count, number, done)


def _watched(target: Target, shared: Shared) -> Target:
    def check(case: Any) -> None:
        shared.begin(repr(case))
        target.check(case)

    return Target(target.name, target.kind, target.cases, check, target.names)


class _Runner:
    """One target's children, one after the other."""

    def __init__(self, target: Target, cases: int, number: int, limit: float) -> None:
        self.target, self.number, self.limit = target, number, limit
        self.wanted = max(1, round(cases * target.share))
        self.row, self.restarts, self.started = Row(target.name, target.kind), 0, time.monotonic()
        target.prepare()
        self.begin()

    def begin(self) -> None:
        self.shared = Shared()
        self.folder = tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        left = self.wanted - self.row.cases
        self.child = os.fork()
        if self.child == 0:
            status = 1
            try:
                os.setpgid(0, 0)
                tempfile.tempdir = self.folder
                quiet = os.open(os.devnull, os.O_WRONLY)
                os.dup2(quiet, 1)
                os.dup2(quiet, 2)
                _child(self.target, left, self.number + 1000 * self.restarts, self.shared)
                status = 0
            except BaseException as error:
                self.shared.tell(f"the campaign itself broke: {type(error).__name__}: {error}", self.shared.case)
            finally:
                os._exit(status)
        self.seen, self.since = 0, time.monotonic()

    def poll(self) -> bool:
        """Look after the child; False once the target is done."""
        pid, status = os.waitpid(self.child, os.WNOHANG)
        if pid == 0:
            cases = self.shared.counts[0]
            if cases != self.seen:
                self.seen, self.since = cases, time.monotonic()
            elif time.monotonic() - self.since > self.limit:
                os.killpg(self.child, signal.SIGKILL)
                os.waitpid(self.child, 0)
                return self.ended(f"hang: more than {self.limit:g} s")
            return True
        if os.WIFSIGNALED(status):
            return self.ended(f"crash: {signal.Signals(os.WTERMSIG(status)).name}")
        return self.ended("" if os.WEXITSTATUS(status) == 0 else "the child ended")

    def ended(self, what: str) -> bool:
        """Add up what a child did; start another if it died."""
        cases, refused, accepted, failures = self.shared.counts
        row = self.row
        row.cases, row.refused, row.accepted = row.cases + cases, row.refused + refused, row.accepted + accepted
        row.failures += failures
        row.examples += self.shared.told
        if what:
            row.cases, row.failures = row.cases + 1, row.failures + 1
            row.examples.append({"what": what, "case": self.shared.case})
            self.restarts += 1
        shutil.rmtree(self.folder, ignore_errors=True)
        row.examples, row.seconds = row.examples[:KEPT], round(time.monotonic() - self.started, 1)
        if what and row.cases < self.wanted and self.restarts < RESTARTS:
            self.begin()
            return True
        return False


def campaign(
    targets: Sequence[Target], *, cases: int, number: int = 0, limit: float = 20.0, jobs: int = 1
) -> Iterator[Row]:
    """Run ``cases`` of each target, several targets at a time; a row as each is done.

    Args:
        targets: what gets the cases.
        cases: for each of them.
        number: seed; the same one gives the same cases.
        limit: seconds that one case may take.
        jobs: targets at a time.
    """
    waiting, running = list(targets), []
    last = time.monotonic()
    while waiting or running:
        now = time.monotonic()
        halted, last = max(0.0, now - last - PAUSE), now
        for runner in running:
            runner.since += halted
        while waiting and len(running) < jobs:
            running.append(_Runner(waiting.pop(0), cases, number, limit))
        for runner in list(running):
            if not runner.poll():
                running.remove(runner)
                yield runner.row
        time.sleep(0.02)
