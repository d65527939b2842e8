"""One clock for all benchmarks: on a GPU by events, behind an empty cache, with a stand-in for CUDA's."""

import time

import pytest
import torch

from benchmarks.gpu import clock
from benchmarks.harness import WARM_UPS, take_turns


@pytest.fixture
def cuda(monkeypatch):
    """What is asked of the device, in order; every event comes 3 ms after the one before."""
    log = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            log.append("event")
            self.at = 3.0 * log.count("event")

        def elapsed_time(self, other):
            assert log[-1] == "synchronize", "read before the device is done"
            return other.at - self.at

    class Cache:
        def zero_(self):
            log.append("flush")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: log.append("synchronize"))
    monkeypatch.setattr(clock, "_flushing", lambda index: Cache())
    return log


def test_a_gpu_is_timed_between_events_behind_an_empty_cache(cuda):
    watch = clock.Stopwatch("cuda")
    cuda.append("work")
    watch.mark()
    watch.mark()
    assert watch.milliseconds() == [3.0, 6.0]
    assert cuda == ["flush", "event", "work", "event", "event", "synchronize"]


def test_turns_on_a_gpu_warm_up_beyond_the_capture_of_a_graph(cuda):
    times = take_turns({"a": lambda: cuda.append("a")}, 2, "cuda")
    assert times == {"a": [3.0, 3.0]}
    assert cuda[: WARM_UPS["cuda"]] == ["a"] * 5
    assert cuda[WARM_UPS["cuda"] :] == ["flush", "event", "a", "event", "synchronize"] * 2


def test_the_flush_is_twice_the_cache(monkeypatch):
    class Card:
        L2_cache_size = 1 << 10

    made = []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Card)
    monkeypatch.setattr(torch, "empty", lambda size, dtype, device: made.append((size, dtype, device)))
    clock._flushing.__wrapped__(1)
    assert made == [(2 << 10, torch.uint8, torch.device("cuda", 1))]


def test_a_cpu_is_timed_by_the_hosts_clock():
    watch = clock.Stopwatch()
    time.sleep(0.002)
    watch.mark()
    watch.mark()
    first, second = watch.milliseconds()
    assert 2 <= first <= second
