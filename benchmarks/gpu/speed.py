"""Milliseconds of whole steps and of single ops, of implementations that take turns; what is wrong is not timed."""

from __future__ import annotations

import gc
import os
import statistics
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from benchmarks import step as step_benchmark
from benchmarks.gpu.cases import birds, make, odd, precisions, set_precision, told
from benchmarks.gpu.clock import by_events, by_replay, graph_of, host_ms, sets_beyond_cache
from benchmarks.gpu.stages import Options, Row
from benchmarks.harness import (
    DIRECTIONS,
    Case,
    allocation_peak,
    is_correct,
    projection,
    spread,
    truth_of,
)
from benchmarks.models import BIRDS, Models, Setting, batch_of, ours, theirs, tiny
from dmgan_fast.ops._backends import VARIABLE

WARM_UP, ROUNDS = 5, 8
REPLAY_ROUNDS = 5


# ---------------------------------------------------------------------------------------------------------------- steps


def steps(options: Options) -> Iterator[Row]:
    """Birds' steps by batch and precision: the authors', ours on the reference, ours, and ours in a CUDA graph."""
    set_precision("fp32")
    setting = tiny() if options.tiny else BIRDS
    correct = step_benchmark.gate(setting, options.device)
    yield {"case": "the authors' step, a narrow model from one state", "correct": correct}
    if not correct:
        raise ValueError("our step differs from the authors' by more than rounding: steps are not timed")
    for size in (2,) if options.tiny else (10, 32, 64):
        for precision in ("fp32",) if options.tiny else precisions(options.device):
            yield from _turns(setting, size, precision, options)
            gc.collect()
            if options.device == "cuda":
                torch.cuda.empty_cache()


def _implementations(setting: Setting, precision: str, device: str) -> dict[str, tuple[str, Any]]:
    """Name → backend and step, on the same weights. The authors' losses are of probabilities, which refuse autocast."""
    models = Models.build(setting).to(device)
    half = precision if precision in ("bf16", "fp16") else "fp32"
    config = replace(setting.config, precision=half)
    found: dict[str, tuple[str, Any]] = {}
    if half == "fp32":
        found["authors"] = "auto", theirs(models, setting.config)
    found["reference"] = "reference", ours(models.copy(), config)
    found["dmgan_fast"] = "auto", ours(models.copy(), config)
    if device == "cuda":
        found["dmgan_fast, graph"] = "auto", ours(models.copy(), replace(config, cuda_graph=True))
    return found


def _turns(setting: Setting, size: int, precision: str, options: Options) -> Iterator[Row]:
    set_precision(precision)
    inputs = batch_of(setting, size, device=options.device)
    row: Row = {"op": "step", "case": f"{setting.name.split()[0]} B{size}", "batch": size, "precision": precision}
    ready: dict[str, Any] = {}
    losses: dict[str, float] = {}
    for name, (backend, step) in _implementations(setting, precision, options.device).items():
        run = partial(_with_backend, backend, step, inputs)
        try:
            for _ in range(1 if options.tiny else WARM_UP):
                found = run()
            losses[name], ready[name] = float(found["generator"]), run
        except RuntimeError as error:
            yield row | {"implementation": name} | told(error)
    times: dict[str, list[float]] = {name: [] for name in ready}
    host: dict[str, list[float]] = {name: [] for name in ready}
    for _ in range(2 if options.tiny else ROUNDS):
        for name, run in ready.items():
            times[name] += by_events([run], options.device)
            host[name].append(host_ms(run, options.device))
    for name, run in ready.items():
        found = row | {"implementation": name, "correct": True} | spread(times[name]) | {"loss": losses[name]}
        found["host_ms"] = statistics.median(host[name])
        if "graph" not in name:  # a replay allocates nothing: what it needs the graph holds
            found["peak_bytes"] = allocation_peak(run, options.device)
        yield found | {"images_per_second": 1e3 * size / found["median_ms"]}


def _with_backend(backend: str, step: Any, inputs: dict[str, Any]) -> Any:
    os.environ[VARIABLE] = backend
    return step(**inputs)


# ------------------------------------------------------------------------------------------------------------------ ops


def ops(options: Options) -> Iterator[Row]:
    """Ops by events and by graph replay, on inputs that do not stay in the L2; first what the device can do at best."""
    yield from _peaks(options)
    kinds = ("fp32",) if options.tiny else precisions(options.device)
    cells = [(kind, *each) for kind in kinds for each in ([*odd()][::3] if options.tiny else birds(10))]
    cells += [(kind, *each) for kind in ("bf16", "tf32") for each in birds(64)] if options.device == "cuda" else []
    for precision, op, settings in cells:
        yield from _op(op, settings, precision, options)
        gc.collect()


def _peaks(options: Options) -> Iterator[Row]:
    """A large copy, and large products in each precision: the fastest run counts."""
    elements, side = (1 << 12, 64) if options.tiny else (1 << 28, 8192)
    x = torch.randn(elements, device=options.device)
    y = torch.empty_like(x)
    times = by_events([lambda: y.copy_(x)] * ROUNDS, options.device)
    yield {"op": "peak", "case": "copy", "per_second": 2e3 * x.nbytes / min(times)}
    for precision in ("fp32",) if options.tiny else precisions(options.device):
        dtype = set_precision(precision).dtype
        a, b = (torch.randn(side, side, device=options.device, dtype=dtype) for _ in range(2))
        times = by_events([lambda a=a, b=b: a @ b] * ROUNDS, options.device)  # type: ignore[misc]
        yield {"op": "peak", "case": "product", "precision": precision, "per_second": 2e3 * side**3 / min(times)}


def _op(op: str, settings: dict[str, Any], precision: str, options: Options) -> Iterator[Row]:
    tolerance = set_precision(precision).tolerance
    case = make(op, settings, precision, options.device)
    row: Row = {"op": case.op, "case": case.name, "precision": precision}
    truth = truth_of(case)
    right: list[str] = []
    for name, function in case.implementations.items():
        try:
            correct = is_correct(case, function, truth, tolerance)
        except RuntimeError as error:
            yield row | {"implementation": name} | told(error)
            continue
        if correct:
            right.append(name)
        else:
            yield row | {"implementation": name, "correct": False}
    gradient = projection(truth[0]).to(case.inputs[next(iter(case.inputs))].dtype)
    del truth
    nbytes = sum(x.nbytes for x in case.inputs.values())
    count = sets_beyond_cache(nbytes, options.device)
    sets = [case, *(make(op, settings, precision, options.device, seed) for seed in range(1, count))]
    for direction in DIRECTIONS:
        runs = {name: _runs(sets, name, None if direction == "forward" else gradient) for name in right}
        times: dict[str, list[float]] = {name: [] for name in runs}
        for k in range(1 if options.tiny else ROUNDS):
            for name, found in runs.items():
                taken = by_events(found, options.device)
                times[name] += taken if k or options.tiny else []  # the first round warms up
        replays = _replays(runs, options.device)
        for name in runs:
            found = row | {"implementation": name, "direction": direction, "correct": True} | spread(times[name])
            found |= dict(zip(("flops", "bytes"), case.work[direction], strict=True)) | {"sets": count}
            yield found | {"graph_ms": replays.get(name)}


def _runs(sets: list[Case], name: str, gradient: Any) -> list[Any]:
    if gradient is None:
        return [partial(each.forward, each.implementations[name]) for each in sets]
    return [partial(each.both, each.implementations[name], gradient) for each in sets]


def _replays(runs: dict[str, list[Any]], device: str) -> dict[str, float]:
    """Milliseconds by name, of graphs that take turns."""
    graphs = {name: graph for name, found in runs.items() if (graph := graph_of(found, device)) is not None}
    times: dict[str, list[float]] = {name: [] for name in graphs}
    for _ in range(REPLAY_ROUNDS if graphs else 0):
        for name, graph in graphs.items():
            times[name].append(by_replay(graph, len(runs[name])))
    return {name: statistics.median(found) for name, found in times.items()}
