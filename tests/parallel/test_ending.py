"""A process ends after gloo's threads have released what it exchanged."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dmgan_fast.parallel.ending import _busy

TASKS = Path("/proc/self/task")
HELD = """
import os, torch
from torch import distributed
from dmgan_fast.parallel.ending import THREADS, wait_for_gloo

torch.set_num_threads(1)
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
before = set(os.listdir("/proc/self/task"))
distributed.init_process_group("gloo", rank=0, world_size=1, store=distributed.HashStore())
threads = sorted(set(os.listdir("/proc/self/task")) - before)
distributed.all_reduce(torch.ones(4))
for thread in threads:  # they run only while this one waits
    os.sched_setscheduler(int(thread), os.SCHED_IDLE, os.sched_param(0))
held = tried = 0
while held < 3 and tried < 100:
    x = torch.ones(4)
    distributed.all_reduce(x)
    held, tried = held + (x._use_count() > 1), tried + 1
    wait_for_gloo(60)
    assert x._use_count() == 1
names = [open(f"/proc/self/task/{thread}/comm").read() for thread in threads]
assert sum(name.startswith(THREADS) for name in names) == 2, names
print("held", held)
"""
LAST = """
from torch import distributed
from dmgan_fast.parallel import Processes, ending

ending.wait_for_gloo = lambda: print("waited")
distributed.init_process_group("gloo", rank=0, world_size=1, store=distributed.HashStore())
Processes.of()
print("alone")
class Two:
    rank, size = (lambda self: 0), (lambda self: 2)
Processes.of(Two())
Processes.of(Two())
print("done")
"""


def printed(code):
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.split()


@pytest.mark.skipif(not TASKS.exists(), reason="the system does not show threads")
def test_tensors_of_exchanges_are_released_when_it_returns():
    """Shown with threads that get no core while ours runs: most exchanges end before their tensor is released."""
    assert printed(HELD) == ["held", "3"]


def test_a_process_with_others_waits_once_at_its_end():
    assert printed(LAST) == ["alone", "done", "waited"]


@pytest.mark.skipif(not TASKS.exists(), reason="the system does not show threads")
def test_only_threads_of_gloo_that_want_a_core_are_waited_for(tmp_path):
    lines = {"7 (pt_gloo_runloop) R 1": True, "7 (pt_gloo_runloop) S 1": False, "7 (python (x) R) R 1": False}
    for number, (line, busy) in enumerate(lines.items()):
        file = tmp_path / str(number)
        file.write_text(line)
        assert _busy(file) == busy
    assert not _busy(tmp_path / "ended")
    assert not any(map(_busy, TASKS.glob(f"{os.getpid()}/stat")))
