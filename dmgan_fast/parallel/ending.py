"""The end of a process that exchanged tensors through gloo.

Gloo's threads release a tensor some time after its exchange. One that does so while Python ends aborts the process,
whose work is done: https://github.com/pytorch/pytorch/issues/190489.
"""

import atexit
import time
from functools import cache
from pathlib import Path

THREADS = "pt_gloo"  # how PyTorch's names of them begin


@cache
def end_after_gloo() -> None:
    """Let this process end only once gloo's threads have released the tensors of its last exchanges."""
    atexit.register(wait_for_gloo)


def wait_for_gloo(seconds: float = 10.0) -> None:
    """Until gloo's threads rest, at most ``seconds``; where the system does not show threads, 10 ms."""
    end = time.monotonic() + seconds
    while True:
        time.sleep(0.01)  # without Python's lock, which they need
        if not any(map(_busy, Path("/proc/self/task").glob("*/stat"))) or time.monotonic() >= end:
            return


def _busy(thread: Path) -> bool:
    """Whether a thread is one of gloo's, and runs or waits for a core."""
    try:
        name, _, rest = thread.read_text().partition("(")[2].rpartition(") ")
    except OSError:  # it has ended
        return False
    return name.startswith(THREADS) and rest.startswith("R")
