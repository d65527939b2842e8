"""Times runs by the device's own clock: by events around each, and by replays of a graph, which leave Python out. All
benchmarks use it; on a CPU it is the host's clock.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import torch

Run = Callable[[], Any]
REPLAYS = 5
MOST_SETS = 64


def sets_beyond_cache(nbytes: int, device: str) -> int:
    """How many sets of inputs of so many bytes hold twice what the GPU's L2 does: no run finds its own there."""
    if device != "cuda":
        return 2
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    return min(MOST_SETS, max(2, math.ceil(2 * cache / max(nbytes, 1))))


class Stopwatch:
    """Starts when it is made: on a GPU behind all that was launched before, with nothing of it left in the L2.

    While the device empties its cache, Python runs ahead, so that short work does not wait for its launch.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.marks: list[Any] = []
        if device == "cuda":
            _flushing(torch.cuda.current_device()).zero_()
        self.mark()

    def mark(self) -> None:
        """Take the time when all launched so far is done."""
        if self.device == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append(event)
        else:
            self.marks.append(time.perf_counter())

    def milliseconds(self) -> list[float]:
        """From the start to each mark after it; waits for the device."""
        start, *others = self.marks
        if self.device == "cuda":
            torch.cuda.synchronize()
            return [start.elapsed_time(mark) for mark in others]
        return [1e3 * (mark - start) for mark in others]


@cache
def _flushing(index: int) -> torch.Tensor:
    """Twice what the L2 of a GPU holds; writing it leaves nothing else there."""
    size = 2 * torch.cuda.get_device_properties(index).L2_cache_size
    return torch.empty(max(size, 1), dtype=torch.uint8, device=torch.device("cuda", index))


def by_events(runs: Sequence[Run], device: str) -> list[float]:
    """Milliseconds of each run, one after the other."""
    if device != "cuda":
        return [host_ms(run, device) for run in runs]
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(len(runs) + 1)]
    marks[0].record()
    for run, mark in zip(runs, marks[1:], strict=True):
        run()
        mark.record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) for before, after in pairwise(marks)]


def host_ms(run: Run, device: str) -> float:
    """Milliseconds until a run returns, which on a GPU may be before it is done."""
    begin = time.perf_counter()
    run()
    taken = 1e3 * (time.perf_counter() - begin)
    if device == "cuda":
        torch.cuda.synchronize()
    return taken


def graph_of(runs: Sequence[Run], device: str) -> Any:
    """A CUDA graph of all runs; None where one waits for the device, or there is none. They were run before."""
    if device != "cuda" or waits(runs[0]):
        return None
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        for run in runs:
            run()
    return graph


def waits(run: Run) -> bool:
    """Whether a run waits for the GPU. Found before a capture: one that fails half way leaves its stream current."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    except RuntimeError as error:
        print("no graph:", str(error)[:200], flush=True)
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False


def by_replay(graph: Any, runs: int) -> float:
    """Milliseconds of a run."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(REPLAYS):
        graph.replay()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / (REPLAYS * runs)
