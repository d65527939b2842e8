"""Milliseconds of whole steps and of single ops, of implementations that take turns; what is wrong is not timed."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from benchmarks import step as step_benchmark
from benchmarks.common import Target
from benchmarks.gpu import peaks
from benchmarks.gpu.cases import birds, make, odd, told
from benchmarks.gpu.clock import by_events, by_replay, graph_of, host_ms, sets_beyond_cache
from benchmarks.gpu.peaks import PRODUCT, shares
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
from benchmarks.models import BIRDS, Models, Setting, batch_of
from benchmarks.models import tiny as tiny_setting
from benchmarks.precision import precisions, set_precision

WARM_UP, ROUNDS = 5, 8
# Of a step: images and precision.
CELLS = [(10, "bf16"), (10, "tf32"), (64, "bf16"), (10, "fp32"), (64, "tf32"), (10, "fp16"), (32, "bf16")]
CELLS += [(32, "tf32"), (64, "fp32")]
TINY_CELLS = [(2, "fp32")]
OPS_IN = ("bf16", "tf32", "fp32", "fp16")  # as it is asked for
REPLAY_ROUNDS = 5


# ---------------------------------------------------------------------------------------------------------------- steps


def steps(options: Options) -> Iterator[Row]:
    """Birds' steps by precision and batch: the authors', ours on the reference, ours, and ours in a CUDA graph.

    Before a precision is timed, a narrow model takes its first steps in it. What is asked for most comes first: the
    paper's batch in bfloat16 and in the authors' TF32.
    """
    setting = tiny_setting() if options.tiny else BIRDS
    start = Models.build(setting)  # once: orthogonal weights take a CPU seconds
    right: dict[str, bool] = {}
    for size, precision in TINY_CELLS if options.tiny else CELLS:
        if precision not in precisions(options.device):
            continue
        if precision not in right:
            gates = list(_gates(setting, precision, options))
            yield from gates
            right[precision] = gates[0]["correct"]
        if right[precision]:
            yield from _turns(setting, start, size, precision, options)
        gc.collect()
        if options.device == "cuda":
            torch.cuda.empty_cache()
    if not any(right.values()):
        raise ValueError("our step differs from the authors' by more than rounding: steps are not timed")


def _gates(setting: Setting, precision: str, options: Options) -> Iterator[Row]:
    """Whether steps are the authors', and those from a graph ours; one that fails is told, and the rest goes on."""
    set_precision(precision)
    gates = {"the authors' step, a narrow model from one state": step_benchmark.gate}
    if options.device == "cuda":
        gates["steps replayed from a graph learn what others do"] = step_benchmark.graph_gate
    for case, gate in gates.items():
        row: Row = {"case": case, "precision": precision}
        try:
            row["correct"] = gate(setting, Target(options.device, precision))
        except RuntimeError as error:
            row |= {"correct": False} | told(error)
        yield row


def _implementations(setting: Setting, start: Models, target: Target) -> dict[str, Any]:
    """Name → step, on the same weights. Compiling takes more than the time there is: ``benchmarks.step`` does."""
    names = ("authors", "reference", "dmgan_fast, graph", "dmgan_fast")
    found = step_benchmark.implementations(setting, target, None, compiled=False, start=start, levels=())
    return {name: found[name] for name in names if name in found}


def _turns(setting: Setting, start: Models, size: int, precision: str, options: Options) -> Iterator[Row]:
    set_precision(precision)
    target = Target(options.device, precision)
    inputs = batch_of(setting, size, device=options.device)
    row: Row = {"op": "step", "case": f"{setting.name.split()[0]} B{size}", "batch": size, "precision": precision}
    ready: dict[str, Any] = {}
    losses: dict[str, float] = {}
    for name, step in _implementations(setting, start, target).items():
        run = partial(step, **inputs)
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
    share = shares(setting, target, 64 if options.tiny else PRODUCT)
    for name, run in ready.items():
        found = row | {"implementation": name, "correct": True} | spread(times[name]) | {"loss": losses[name]}
        found["host_ms"] = statistics.median(host[name])
        if "graph" not in name:  # a replay allocates nothing: what it needs the graph holds
            found["peak_bytes"] = allocation_peak(run, options.device)
        yield found | share(found, size)


# ------------------------------------------------------------------------------------------------------------------ ops


def ops(options: Options) -> Iterator[Row]:
    """Ops by events and by graph replay, on inputs that do not stay in the L2; first what the device can do at best."""
    there = ("fp32",) if options.tiny else precisions(options.device)
    kinds = [kind for kind in OPS_IN if kind in there]
    yield from peaks.rows_of(options.device, kinds, options.tiny)
    cells = [(kind, *each) for kind in kinds for each in ([*odd()][::3] if options.tiny else birds(10))]
    cells += [(kind, *each) for kind in ("bf16", "tf32") for each in birds(64)] if options.device == "cuda" else []
    for precision, op, settings in cells:
        yield from _op(op, settings, precision, options)
        gc.collect()


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
