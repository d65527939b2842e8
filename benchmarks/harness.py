"""Times implementations of one case against each other: correctness first, then interleaved runs in one process.

A benchmark gives ``Case``s; each names its inputs and its implementations, the reference among them. Rows hold medians
and the 20th and 80th percentiles, the bytes saved for backward (each storage once, parameters left out) and the peak
of what PyTorch allocated during forward + backward.
"""

from __future__ import annotations

import resource
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import Row, Rows, Target
from benchmarks.gpu.clock import Stopwatch
from benchmarks.precision import TOLERANCE
from dmgan_fast import out_of_memory

Function = Callable[..., Any]
ONEDNNS_OUT_OF_MEMORY = "could not create a primitive"
LAYOUTS = {"NCHW": torch.contiguous_format, "channels-last": torch.channels_last}
DIRECTIONS = ("forward", "forward+backward")
WARM_UPS = {"cpu": 1, "cuda": 5}  # on a GPU a step is captured in its fourth, and libraries choose kernels


@dataclass
class Case:
    """``inputs`` are differentiated, ``fixed`` are passed by name as they are; ``parameters``: names of the inputs that
    are not counted as saved. ``reference`` is run in float64 on the same numbers. ``work``: direction → floating point
    operations and bytes that the op cannot do without: each input read once, each result written once."""

    op: str
    name: str
    inputs: dict[str, Tensor]
    fixed: dict[str, Any]
    parameters: tuple[str, ...]
    reference: Function
    implementations: dict[str, Function] = field(default_factory=dict)
    work: dict[str, tuple[float, float]] = field(default_factory=dict)

    def forward(self, function: Function) -> Tensor:
        y: Tensor = function(**self.inputs, **self.fixed)
        return y

    def both(self, function: Function, gradient: Tensor | None = None) -> tuple[Tensor, ...]:
        """Forward and backward: the result and the gradients of the inputs. ``gradient``: of the result."""
        y = self.forward(function)
        return y, *torch.autograd.grad(y, list(self.inputs.values()), projection(y) if gradient is None else gradient)


def ours(target: Target, function: Function, **fixed: Any) -> dict[str, Function]:
    """A function of ``dmgan_fast.functional`` by each of our backends there."""
    return {name: partial(function, **fixed, backend=backend) for name, backend in target.backends().items()}


# ------------------------------------------------------------------------------------------------------ correctness


def error(found: Tensor, truth: Tensor) -> float:
    """Relative RMS error."""
    difference = (found.detach().double() - truth.to(found.device)).square().mean().sqrt()
    return (difference / truth.square().mean().sqrt().clamp(min=1e-30)).item()


def projection(y: Tensor) -> Tensor:
    """Fixed random numbers in the layout of y, as the gradient of y has it in a model."""
    generator = torch.Generator(y.device).manual_seed(1)
    drawn = torch.randn(y.shape, generator=generator, device=y.device, dtype=torch.float32)
    return torch.empty_like(y).copy_(drawn)


def truth_of(case: Case) -> tuple[Tensor, ...]:
    """Result and gradients of the reference in float64."""
    exact = {name: x.detach().double().requires_grad_() for name, x in case.inputs.items()}
    floating = {k: x.double() for k, x in case.fixed.items() if isinstance(x, Tensor) and x.is_floating_point()}
    whole = Case(case.op, case.name, exact, case.fixed | floating, case.parameters, case.reference)
    return whole.both(case.reference)


def errors(found: tuple[Tensor, ...], truth: tuple[Tensor, ...]) -> list[float]:
    """Of the result and of each gradient. A lone number, a sum of terms that cancel, has no scale of its own: it counts
    with the gradient before it."""
    pairs: list[tuple[Tensor, Tensor]] = []
    for pair in zip(found, truth, strict=True):
        if pair[1].numel() == 1 and len(pairs) > 1:
            before = pairs.pop()
            pair = tuple(torch.cat((a.flatten(), b.flatten())) for a, b in zip(before, pair, strict=True))
        pairs.append(pair)
    return [error(*pair) for pair in pairs]


def is_correct(case: Case, function: Function, truth: tuple[Tensor, ...], tolerance: float | None = None) -> bool:
    """Within ``tolerance``; None: that of the inputs' dtype."""
    allowed = TOLERANCE[next(iter(case.inputs.values())).dtype] if tolerance is None else tolerance
    return all(each <= allowed for each in errors(case.both(function), truth))


# ----------------------------------------------------------------------------------------------------------- memory


def saved_bytes(case: Case, function: Function) -> int:
    storages: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        y = case.forward(function)
    for name in case.parameters:
        storages.pop(case.inputs[name].untyped_storage().data_ptr(), None)
    del y
    return sum(storages.values())


def allocation_peak(function: Callable[[], Any], device: str = "cpu") -> int:
    """Peak of PyTorch's allocations during a call, above what was there before."""
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        function()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    assert profiler.profiler is not None
    events = profiler.profiler.kineto_results.events()
    now = peak = 0
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of ``function`` in a fresh process, which gives back the freed memory that this one would keep."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


@contextmanager
def limited_memory(device: str = "cpu") -> Iterator[None]:
    """Within, an allocation beyond what the machine has free fails, instead of the process being killed later. A GPU
    refuses such an allocation itself, and its driver reserves more addresses than there is memory."""
    if device != "cpu":
        yield
        return
    free = out_of_memory.free_memory(torch.device("cpu"))
    assert free is not None
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def is_out_of_memory(failure: Exception) -> bool:
    """True for what PyTorch raises when an allocation fails, on any device."""
    return out_of_memory.is_out_of_memory(failure) or ONEDNNS_OUT_OF_MEMORY in str(failure)


@contextmanager
def noting_out_of_memory(row: Row) -> Iterator[None]:
    """Within, an allocation that fails ends what is done, and the row says so."""
    try:
        yield
    except (RuntimeError, MemoryError) as failure:
        if not is_out_of_memory(failure):
            raise
        row["out_of_memory"] = True


# ----------------------------------------------------------------------------------------------------------- timing


def _time(case: Case, function: Function, gradient: Tensor, target: Target) -> tuple[float, float]:
    """Milliseconds of forward alone, and of forward + backward."""
    watch = Stopwatch(target.device)
    y = case.forward(function)
    watch.mark()
    torch.autograd.grad(y, list(case.inputs.values()), gradient)
    watch.mark()
    forward, both = watch.milliseconds()
    return forward, both


def time_case(case: Case, function: Function, repeats: int, target: Target) -> list[float]:
    """Milliseconds of forward + backward, after a warm-up."""
    gradient = projection(case.forward(function))
    return [_time(case, function, gradient, target)[1] for _ in range(repeats + 1)][1:]


def measure(case: Case, repeats: int, target: Target, environment: Row) -> Rows:
    truth = truth_of(case)
    correct = {name: is_correct(case, f, truth, target.tolerance) for name, f in case.implementations.items()}
    gradient = projection(truth[0]).to(target.dtype)
    del truth
    times: dict[str, list[tuple[float, float]]] = {name: [] for name, right in correct.items() if right}
    for _ in range(repeats):
        for name, runs in times.items():
            runs.append(_time(case, case.implementations[name], gradient, target))
    rows = []
    for name, function in case.implementations.items():
        peak = allocation_peak(partial(case.both, function), target.device)
        memory = {"saved_bytes": saved_bytes(case, function), "peak_bytes": peak}
        for which, direction in enumerate(DIRECTIONS):
            row = {"op": case.op, "case": case.name, "implementation": name, "direction": direction}
            row |= spread([run[which] for run in times.get(name, [])])
            if direction in case.work:
                row |= dict(zip(("flops", "bytes"), case.work[direction], strict=True))
            rows.append(row | memory | {"correct": correct[name]} | environment)
    return rows


def spread(runs: list[float]) -> dict[str, float]:
    """Median and 20th and 80th percentile; nothing without runs."""
    if len(runs) < 2:
        return dict.fromkeys(("median_ms", "p20_ms", "p80_ms"), runs[0]) if runs else {}
    p20, *_, p80 = statistics.quantiles(runs, n=5, method="inclusive")
    return {"median_ms": statistics.median(runs), "p20_ms": p20, "p80_ms": p80}


def take_turns(functions: dict[str, Callable[[], Any]], repeats: int, device: str = "cpu") -> dict[str, list[float]]:
    """Milliseconds of each run by the device's clock: warm-ups of every function, then all of them in turn."""
    for function in functions.values():
        for _ in range(WARM_UPS[device]):
            function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            watch = Stopwatch(device)
            function()
            watch.mark()
            times[name] += watch.milliseconds()
    return times
