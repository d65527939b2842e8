"""Times implementations of one case against each other: correctness first, then interleaved runs in one process.

A benchmark gives ``Case``s; each names its inputs and its implementations, the reference among them. Rows hold medians
and the 20th and 80th percentiles, the bytes kept for backward (each storage once, parameters left out) and the peak
of what PyTorch allocated during forward + backward.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from dmgan_fast import __version__, native
from dmgan_fast.files import replace_file
from dmgan_fast.training import allocator

Function = Callable[..., Tensor]
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}  # relative RMS error against float64
OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "could not create a primitive")  # the last is oneDNN's
RESULTS = Path(__file__).parent / "results"
FILES = {  # part of `benchmarks.all` → its committed rows
    "roofline": "roofline.json",
    "ops": "cpu_float32.json",
    "step": "step.json",
    "sampling": "sampling.json",
    "components": "components.json",
    "scaling": "scaling.json",
}
LAYOUTS = {"NCHW": torch.contiguous_format, "channels-last": torch.channels_last}
DIRECTIONS = ("forward", "forward+backward")


@dataclass(frozen=True)
class Target:
    """Where and in which dtype a benchmark runs."""

    device: str = "cpu"
    dtype: torch.dtype = torch.float32

    def place(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Inputs there, as leaves."""
        return {name: x.to(self.device, self.dtype).requires_grad_() for name, x in inputs.items()}

    def backends(self) -> dict[str, str]:
        """Names of our implementations → backends."""
        if self.device == "cpu":
            return {"dmgan_fast": "auto"}
        return {"dmgan_fast, cuda": "cuda", "dmgan_fast, triton": "triton"}

    def synchronize(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


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


def keep_freed_memory() -> str:
    """Let glibc keep freed memory, as training does: its default maps every large tensor anew. Same for all."""
    return "glibc, freed memory kept" if allocator.keep_freed_memory() else "system"


def error(found: Tensor, truth: Tensor) -> float:
    """Relative RMS error."""
    difference = (found.detach().double() - truth.to(found.device)).square().mean().sqrt()
    return (difference / truth.square().mean().sqrt().clamp(min=1e-30)).item()


def _projection(y: Tensor) -> Tensor:
    """Fixed random numbers in the layout of y, as the gradient of y has it in a model."""
    generator = torch.Generator().manual_seed(1)
    return torch.empty_like(y).copy_(torch.randn(y.shape, generator=generator, dtype=torch.float32))


def _run(case: Case, function: Function, inputs: dict[str, Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
    y = function(**inputs, **case.fixed)
    return y, torch.autograd.grad(y, list(inputs.values()), _projection(y))


def is_correct(case: Case, function: Function, truth: tuple[Tensor, tuple[Tensor, ...]]) -> bool:
    y, grads = _run(case, function, case.inputs)
    errors = [error(y, truth[0]), *(error(a, b) for a, b in zip(grads, truth[1], strict=True))]
    return all(each <= TOLERANCE[y.dtype] for each in errors)


def saved_bytes(case: Case, function: Function) -> int:
    storages: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        y = function(**case.inputs, **case.fixed)
    for name in case.parameters:
        storages.pop(case.inputs[name].untyped_storage().data_ptr(), None)
    del y
    return sum(storages.values())


def peak_bytes(case: Case, function: Function) -> int:
    """Peak of forward + backward."""
    on_card = next(iter(case.inputs.values())).is_cuda
    return allocation_peak(lambda: _run(case, function, case.inputs), "cuda" if on_card else "cpu")


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


def _time(case: Case, function: Function, gradient: Tensor, target: Target) -> tuple[float, float]:
    """Milliseconds of forward alone, and of forward + backward."""
    target.synchronize()
    start = time.perf_counter()
    y = function(**case.inputs, **case.fixed)
    target.synchronize()
    middle = time.perf_counter()
    torch.autograd.grad(y, list(case.inputs.values()), gradient)
    target.synchronize()
    return 1e3 * (middle - start), 1e3 * (time.perf_counter() - start)


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of ``function`` in a fresh process, which gives back the freed memory that this one would keep."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


@contextmanager
def limited_memory() -> Iterator[None]:
    """Within, an allocation beyond what the machine has free fails, instead of the process being killed later."""
    pages = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(pages["MemAvailable"].split()[0]) << 10
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def is_out_of_memory(failure: Exception) -> bool:
    """True for what PyTorch raises when an allocation fails, on any device."""
    return isinstance(failure, MemoryError) or any(text in str(failure) for text in OUT_OF_MEMORY)


def time_case(case: Case, function: Function, repeats: int, target: Target) -> list[float]:
    """Milliseconds of forward + backward, after a warm-up."""
    gradient = _projection(function(**case.inputs, **case.fixed))
    return [_time(case, function, gradient, target)[1] for _ in range(repeats + 1)][1:]


def measure(case: Case, repeats: int, target: Target, environment: dict[str, Any]) -> list[dict[str, Any]]:
    exact = {name: x.detach().double().requires_grad_() for name, x in case.inputs.items()}
    truth = _run(case, case.reference, exact)
    correct = {name: is_correct(case, f, truth) for name, f in case.implementations.items()}
    gradient = _projection(truth[0]).to(target.dtype)
    del truth, exact
    times: dict[str, list[tuple[float, float]]] = {name: [] for name, right in correct.items() if right}
    for _ in range(repeats):
        for name, runs in times.items():
            runs.append(_time(case, case.implementations[name], gradient, target))
    rows = []
    for name, function in case.implementations.items():
        memory = {"saved_bytes": saved_bytes(case, function), "peak_bytes": peak_bytes(case, function)}
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


def take_turns(functions: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each run: a warm-up of every function, then all of them in turn."""
    for function in functions.values():
        function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append(1e3 * (time.perf_counter() - start))
    return times


def environment_of(target: Target) -> dict[str, Any]:
    """What every row says about where it was measured."""
    return {
        "device": torch.cuda.get_device_name() if target.device == "cuda" else cpu_model(),
        "dtype": str(target.dtype).removeprefix("torch."),
        "level": native.cpu_level(),
        "compiler": native.compiler(),
        "commit": commit(),
        "threads": torch.get_num_threads(),
        "allocator": keep_freed_memory() if target.device == "cpu" else "CUDA caching allocator",
        "versions": {"dmgan_fast": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def commit() -> str:
    """The commit that is measured; with ``+`` where files differ from it."""
    told = subprocess.run(["git", "describe", "--always", "--dirty=+"], capture_output=True, text=True, cwd=RESULTS)
    return told.stdout.strip() or "unknown"


def results_of(level: str | None = None) -> Path:
    """The folder of committed results of a CPU level; of the one in use by default."""
    return RESULTS / (level or native.cpu_level())


def limited_to(level: str) -> dict[str, str]:
    """Environment variables that limit us and PyTorch's own kernels alike to a CPU level."""
    limits = {"avx2": ("avx2", "AVX2", "AVX2"), "sse2": ("default", "SSE41", "SSE4_2")}
    variables = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")
    return {native.LEVEL_VARIABLE: level} | dict(zip(variables, limits.get(level, ()), strict=False))


def load_rows(folder: Path) -> list[dict[str, Any]]:
    """Rows of all parts that have been measured."""
    files = [folder / name for name in FILES.values()]
    return [row for file in files if file.exists() for row in json.loads(file.read_text())]


def write_rows(file: Path, rows: list[dict[str, Any]]) -> None:
    with replace_file(file) as temporary:
        temporary.write_text(json.dumps(rows, indent=1) + "\n")


def cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def run(benchmarks: dict[str, Callable[[Target], Iterable[Case]]], description: str) -> None:
    """The command line: runs benchmarks by name, shows tables, writes rows."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--repeats", type=int, default=21, help="runs of each implementation (default 21)")
    parser.add_argument("--only", default="", help="run the cases whose name contains this")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=[str(dtype).split(".")[1] for dtype in TOLERANCE], default="float32")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no GPU: PyTorch sees no CUDA device")
    target = Target(arguments.device, getattr(torch, arguments.dtype))
    environment = environment_of(target)
    rows = []
    for cases in benchmarks.values():
        torch.manual_seed(0)
        for case in cases(target):
            if arguments.only in case.name:
                found = measure(case, arguments.repeats, target, environment)
                show(found)
                rows += found
    if arguments.json:
        write_rows(arguments.json, rows)
    if not all(row["correct"] for row in rows):
        sys.exit("a result is wrong: its time is not reported")


def baseline(rows: list[dict[str, Any]]) -> str:
    """The implementation the others are compared with: the authors' form, in the layout of the inputs."""
    return next(row["implementation"] for row in rows if row["implementation"].startswith("authors"))


def show(rows: list[dict[str, Any]]) -> None:
    table = Table(title=f"{rows[0]['op']}: {rows[0]['case']}")
    for column in ("implementation", "direction", "median ms", "p20–p80", "× authors", "saved MiB", "peak MiB"):
        table.add_column(column)
    reference = {row["direction"]: row.get("median_ms") for row in rows if row["implementation"] == baseline(rows)}
    for row in rows:
        memory = ["" if row.get(n) is None else f"{row[n] / 2**20:.2f}" for n in ("saved_bytes", "peak_bytes")]
        if "median_ms" not in row:
            why = "OUT OF MEMORY" if row.get("out_of_memory") else "WRONG"
            table.add_row(row["implementation"], row["direction"], why, "", "", *memory)
            continue
        ratio = f"{reference[row['direction']] / row['median_ms']:.2f}" if reference.get(row["direction"]) else ""
        spread = f"{row['p20_ms']:.2f}–{row['p80_ms']:.2f}"
        table.add_row(row["implementation"], row["direction"], f"{row['median_ms']:.2f}", spread, ratio, *memory)
    Console(width=120).print(table)
