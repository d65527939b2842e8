"""As many workers as help and as the machine has room for."""

from pathlib import Path

import pytest
import torch

from dmgan_fast.data import workers
from dmgan_fast.data.workers import MOST, helpful_workers, local_processes, usable_cores

GPU, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.fixture
def machine(monkeypatch):
    """``machine(cores, room)``: what the machine has from now on."""

    def have(cores, room):
        monkeypatch.setattr(workers, "usable_cores", lambda: cores)
        monkeypatch.setattr(workers, "_room", lambda: room)

    return have


@pytest.mark.parametrize(
    ("cores", "processes", "count"), [(1, 1, 0), (2, 1, 1), (8, 1, 7), (64, 1, MOST), (16, 4, 3), (4, 8, 0)]
)
def test_for_a_gpu_all_cores_but_one_up_to_eight_shared_with_other_processes(machine, cores, processes, count):
    machine(cores, 1 << 40)
    assert helpful_workers(GPU, 1 << 20, processes=processes) == count


def test_on_a_cpu_training_keeps_its_cores(machine):
    machine(64, 1 << 40)
    assert helpful_workers(CPU, 1 << 20) == 0


def test_little_shared_memory_means_fewer_workers(machine):
    """A container has 64 MiB unless told otherwise."""
    machine(64, 64 << 20)
    assert [helpful_workers(GPU, size << 20) for size in (1, 5, 13, 30)] == [8, 4, 1, 0]


def test_cores_are_those_that_may_be_used(monkeypatch):
    monkeypatch.setattr(workers.os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    for text, cores in (("max 100000", 4), ("250000 100000", 2), ("50000 100000", 1), ("odd", 4)):
        monkeypatch.setattr(Path, "read_text", lambda self, text=text: text)
        assert usable_cores() == cores


def test_processes_here_are_those_that_torchrun_names(monkeypatch):
    for text, count in (("4", 4), ("0", 1), ("many", 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", text)
        assert local_processes() == count
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    assert local_processes() == 1
