"""Cells in processes, of which some die or spoil what comes after them."""

import os
import signal

import pytest

from benchmarks.gpu.pool import in_processes

SPOILED = []  # of the process


def work(name):
    if name == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "spoils":
        SPOILED.append(name)
    return [{"cell": name, "process": os.getpid(), "spoiled": bool(SPOILED) and name != "spoils"}]


def died(code, name):
    return [{"cell": name, "died": code}]


@pytest.mark.parametrize("workers", [1, 3])
def test_all_cells_are_told_whatever_becomes_of_their_processes(workers):
    names = ["a", "dies", "b", "spoils", "c", "d", "dies", "e"]
    rows = list(in_processes(work, [(name,) for name in names], workers, died=died, is_sound=lambda: not SPOILED))
    assert sorted(row["cell"] for row in rows) == sorted(names)
    assert [row["died"] for row in rows if "died" in row] == [-signal.SIGKILL] * 2
    assert not any(row.get("spoiled") for row in rows), "what is spoiled does no more work"
    assert os.getpid() not in [row.get("process") for row in rows]


def test_a_process_does_several_cells():
    rows = list(in_processes(work, [("a",)] * 5, 1, died=died))
    assert len({row["process"] for row in rows}) == 1
