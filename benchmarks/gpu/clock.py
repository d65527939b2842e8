"""Times runs by the device's own clock: by events around each, and by replays of a graph, which leave Python out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
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
