"""Whole training steps: the authors' loop (as it is, compiled, under the default allocator, from a checkout) and ours.

Before anything is timed, a narrow model takes steps from one state, ours and the authors': weights in float64 and
losses in the precision of the run must be the same. Then implementations take turns at full width. ``--device cuda
--precision bf16``: on a GPU, at the paper's batch, also by replays of a graph; rows tell images a second and the share
of the GPU's peak.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.authors.checkout import CheckoutStep
from benchmarks.common import (
    Row,
    Rows,
    Target,
    add_target,
    case_table,
    environment,
    finish,
    parser_of,
    save,
    some_of,
    target_of,
)
from benchmarks.gpu.peaks import shares
from benchmarks.harness import (
    allocation_peak,
    error,
    in_own_process,
    limited_memory,
    noting_out_of_memory,
    spread,
    take_turns,
)
from benchmarks.models import BIRDS, COCO, DEMO, Models, Setting, batch_of, ours, preset, theirs
from benchmarks.models import tiny as tiny_setting
from benchmarks.precision import PRECISIONS, set_precision
from dmgan_fast.modules.generator import Level
from dmgan_fast.ops._backends import VARIABLE
from dmgan_fast.runs.policy import MemoryPolicy
from dmgan_fast.training.graph import WARM_UP

Step = Callable[..., Any]
DIRECTION = "step"
# Training amplifies the last bit: after a step of Adam, sixteen bits leave little in common.
GATE_STEPS = {"float64": 10, "fp32": 2, "tf32": 1, "bf16": 1, "fp16": 1}
EXACT = 1e-9  # relative, in float64
GATE_REPLAYS = 5
REPLAYED = 1e-3  # relative: a replay runs the kernels of a step, of which few sum in another order each time
AUTHORS, DEFAULT_ALLOCATOR = "authors", "authors, default allocator"
# Name → mode of torch.compile; the second replays CUDA graphs of what it compiles.
COMPILED: dict[str, dict[str, str | None]] = {
    "cpu": {"authors+compile": None},
    "cuda": {"authors+compile": None, "authors+compile, reduce-overhead": "reduce-overhead"},
}


# ------------------------------------------------------------------------------------------------------ correctness


def gate(setting: Setting, target: Target | None = None) -> bool:
    """True if our steps are the authors': in float64 the same weights, in the target's precision the same losses.

    Spectral norms iterate on every forward here, as the authors' do. Weights in float32 are no measure: Adam's first
    step takes the sign of a gradient, which rounding turns around where it is nothing but rounding.
    """
    target = target or Target()
    setting = setting.narrow().changed(spectral_norm="official")
    start = Models.build(setting)
    truth, truth_losses = _steps(theirs, start, setting, target.device, torch.float64, GATE_STEPS["float64"])
    exact, _ = _steps(ours, start, setting, target.device, torch.float64, GATE_STEPS["float64"])
    own = setting.changed(step=replace(setting.config, precision=_of_step(target)))
    _, losses = _steps(ours, start, own, target.device, torch.float32, GATE_STEPS[target.precision])
    return error(exact, truth) <= EXACT and _same(losses, truth_losses, target)


def rival_gate(setting: Setting, target: Target) -> bool:
    """True if the authors' step under autocast finds the losses that it finds in float64."""
    setting = setting.narrow().changed(spectral_norm="official")
    start = Models.build(setting)
    _, truth = _steps(theirs, start, setting, target.device, torch.float64, 1)
    make = partial(theirs, precision=target.precision)
    _, losses = _steps(make, start, setting, target.device, torch.float32, 1)
    return _same(losses, truth, target)


def graph_gate(setting: Setting, target: Target, make_graph: Callable[..., Any] | None = None) -> bool:
    """True if steps that are replayed from a graph have the losses of steps that are not, and resume from them.

    What neither warms up nor captures is the last ``GATE_REPLAYS`` steps. ``make_graph``: as ``ours``, with a graph.
    """
    setting = setting.narrow()
    start = Models.build(setting)
    own = setting.changed(step=replace(setting.config, precision=_of_step(target)))
    graphs = make_graph or (lambda models, config: ours(models, replace(config, cuda_graph=True)))
    steps = WARM_UP + GATE_REPLAYS
    weights, losses = _steps(ours, start, own, target.device, torch.float32, steps)
    replayed, found = _steps(graphs, start, own, target.device, torch.float32, steps)
    return error(replayed, weights.double()) <= REPLAYED and all(
        error(one[name], value.double()) <= REPLAYED
        for one, other in zip(found, losses, strict=True)
        for name, value in other.items()
    )


def _steps(
    make: Callable[..., Any], start: Models, setting: Setting, device: str, dtype: torch.dtype, steps: int
) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """The generator's weights after some steps from one state, and the losses of each."""
    step = make(start.copy(dtype).to(device), setting.config)
    inputs = batch_of(setting, dtype=dtype, device=device)
    losses = [step(**inputs) for _ in range(steps)]
    return torch.cat([p.detach().flatten() for p in step.generator.parameters()]), losses


def _same(found: list[dict[str, Tensor]], truth: list[dict[str, Tensor]], target: Target) -> bool:
    return all(
        error(one[name], value) <= target.tolerance
        for one, other in zip(found, truth, strict=False)
        for name, value in other.items()
    )


def _of_step(target: Target) -> Any:
    """The precision as a step's settings name it: TF32 is PyTorch's setting, not the step's."""
    return target.precision if PRECISIONS[target.precision].half else "fp32"


# --------------------------------------------------------------------------------------------------- implementations


def _default_allocator(setting: Setting, pipe: Any) -> None:
    """Body of a process that keeps glibc's defaults: a step and its milliseconds for each message."""
    torch.set_num_threads(torch.get_num_threads())
    step, inputs = theirs(Models.build(setting), setting.config), batch_of(setting)
    while pipe.recv():
        start = time.perf_counter()
        step(**inputs)
        pipe.send(1e3 * (time.perf_counter() - start))


@contextmanager
def default_allocator(setting: Setting) -> Iterator[Callable[[], float]]:
    """The authors' step in a process of its own, whose allocator nobody has touched."""
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_default_allocator, args=(setting, there), daemon=True)
    process.start()

    def run() -> float:
        here.send(True)
        return float(here.recv())

    try:
        yield run
    finally:
        here.send(False)
        process.join()


def implementations(
    setting: Setting,
    target: Target,
    authors: Path | None,
    compiled: bool,
    *,
    start: Models | None = None,
    levels: tuple[Level, ...] = ("op", "block"),
) -> dict[str, Step]:
    """Name → a step on models of its own, all from the same weights.

    Args:
        start: models with these weights, where they are built already.
        levels: of checkpointing that ours is measured with too.
    """
    models = (Models.build(setting) if start is None else start.copy()).to(target.device)
    config = replace(setting.config, precision=_of_step(target))
    found: dict[str, Step] = {AUTHORS: theirs(models, setting.config, precision=target.precision)}
    if authors is not None:
        channels = setting.train.discriminator_channels
        found["authors' code"] = CheckoutStep(authors, setting.generator, channels, setting.config)
    for name, mode in COMPILED[target.device].items() if compiled else ():
        step = theirs(models, setting.config, precision=target.precision)
        step.compile(mode)
        found[name] = step
    if target.device == "cuda":
        found["reference"] = OnReference(ours(models.copy(), config))
        found["dmgan_fast, graph"] = ours(models.copy(), replace(config, cuda_graph=True))
    found["dmgan_fast"] = ours(models.copy(), config)
    for level in levels:
        policy = MemoryPolicy(checkpointing=level)
        found[f"dmgan_fast, keeps {level}s"] = ours(models.copy(), replace(config, memory=policy))
    return found


class OnReference:
    """Our step on PyTorch's own kernels."""

    def __init__(self, step: Step) -> None:
        self.step = step

    def __call__(self, **inputs: Any) -> Any:
        with patch.dict(os.environ, {VARIABLE: "reference"}):
            return self.step(**inputs)


def case(
    setting: Setting, repeats: int, authors: Path | None, machine: Row, compiled: bool, target: Target | None = None
) -> Rows:
    """Rows of one setting; what runs out of memory says so."""
    target = target or Target()
    correct = gate(setting, target)
    right = {AUTHORS: rival_gate(setting, target) if PRECISIONS[target.precision].half else correct}
    inputs = batch_of(setting, device=target.device)
    rows: Rows = []
    with default_allocator(setting) if target == Target() else nullcontext() as child:
        functions: dict[str, Callable[[], Any]] = {}
        for name, step in implementations(setting, target, authors, compiled).items():
            run = partial(step, **inputs)
            row = {"op": "step", "case": setting.name, "implementation": name, "direction": DIRECTION} | machine
            with noting_out_of_memory(row):
                run()
                functions[name] = run
            if name not in functions:
                rows.append(row | {"correct": correct})
        if child is not None:
            functions[DEFAULT_ALLOCATOR] = child
        times = take_turns(functions, repeats, target.device) if correct else {}
    share = shares(setting, target)
    for name in functions:
        row = {"op": "step", "case": setting.name, "implementation": name, "direction": DIRECTION} | machine
        if name == DEFAULT_ALLOCATOR:
            row["allocator"] = "glibc's defaults"
        row |= spread(times.get(name, [])) | {"saved_bytes": None, "peak_bytes": None}
        if name != DEFAULT_ALLOCATOR and "graph" not in name:  # a replay allocates nothing: the graph holds its memory
            row["peak_bytes"] = allocation_peak(functions[name], target.device)
        rows.append(row | share(row, setting.batch) | {"correct": right.get(name, correct)})
    return rows


# --------------------------------------------------------------------------------------------------- throughput, start


def throughput(
    setting: Setting, batches: tuple[int, ...], repeats: int, machine: Row, target: Target | None = None
) -> Rows:
    """Milliseconds of our step and the authors' by batch; a cell that runs out of memory says so."""
    target = target or Target()
    models = Models.build(setting).to(target.device)
    config = replace(setting.config, precision=_of_step(target))
    share, rows = shares(setting, target), []
    with limited_memory(target.device):
        # Ours first, the smallest batches first: what a failed allocation leaves behind is in nobody's way.
        for name, make in (("dmgan_fast", ours), (AUTHORS, partial(theirs, precision=target.precision))):
            step = make(models, config)
            for size in batches:
                row = {"op": "throughput", "case": f"{setting.name.split()[0]} B{size}", "implementation": name}
                row |= {"direction": DIRECTION, "batch": size, "correct": True} | machine
                inputs = batch_of(setting, size, device=target.device)
                with noting_out_of_memory(row):
                    row |= spread(take_turns({name: partial(step, **inputs)}, repeats, target.device)[name])
                rows.append(row | share(row, size))
    return sorted(rows, key=lambda row: (row["batch"], row["implementation"]))


_BUILD = """
import torch
from benchmarks.models import BIRDS, Models, batch_of, ours
models = Models.build(BIRDS)
"""
STARTS = {
    "authors": _BUILD,
    "dmgan_fast": _BUILD + "ours(models, BIRDS.config)(**batch_of(BIRDS))\n",
}


def time_to_first_step(repeats: int, machine: Row) -> Rows:
    """Seconds of a new process: import and building models (authors), import, building and the first step (ours)."""
    times = take_turns(
        {name: lambda c=code: subprocess.run([sys.executable, "-c", c], check=True) for name, code in STARTS.items()},
        repeats,
    )
    row = {"op": "start", "case": "import, build; ours: and the first step", "direction": "process"} | machine
    return [row | {"implementation": name} | spread(runs) | {"correct": True} for name, runs in times.items()]


# -------------------------------------------------------------------------------------------------------- the command

SETTINGS = {"birds": BIRDS, "coco": COCO, "demo": DEMO}
PARTS = (*SETTINGS, "throughput", "start")
BATCHES = {"cpu": (4, 8, 32), "cuda": (10, 32, 64, 128)}
PAPER_BATCH = 10  # on a GPU; two cores take 4


def setting_of(part: str, target: Target, tiny: bool) -> Setting:
    """What a part runs on: the paper's batch on a GPU."""
    if tiny:
        return tiny_setting()
    if target.device == "cuda" and part != "demo":
        return preset(part, PAPER_BATCH)
    return SETTINGS[part]


def rows_of(
    part: str,
    repeats: int = 5,
    authors: Path | None = None,
    compiled: bool = True,
    target: Target | None = None,
    tiny: bool = False,
) -> Rows:
    """Every row of one part."""
    target = target or Target()
    set_precision(target.precision)
    machine = environment(target)
    if part == "throughput":
        setting = setting_of("birds", target, tiny)
        return throughput(setting, (2, 4) if tiny else BATCHES[target.device], 1 + repeats // 5, machine, target)
    if part == "start":
        return time_to_first_step(2, machine)
    setting = setting_of(part, target, tiny)
    rows = case(setting, repeats, authors, machine, compiled and part == "birds", target)
    case_table(rows).print(f"step: {setting.name}, {target.precision}")
    return rows


def main() -> None:
    parser = parser_of(f"{__doc__}\nRows of other cases in the file of --json stay.", repeats=5)
    parser.add_argument("--authors", type=Path, metavar="PATH", help="a checkout of the authors' DM-GAN, also timed")
    parser.add_argument("--parts", type=some_of(PARTS), help=f"of {','.join(PARTS)} (default: all; start on CPUs only)")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    add_target(parser)
    arguments = parser.parse_args()
    target = target_of(parser, arguments)
    parts = arguments.parts or [part for part in PARTS if part != "start" or target == Target()]
    if target != Target() and ("start" in parts or arguments.authors):
        parser.error("--parts start and --authors run on a CPU in fp32 only")
    compiled = not (arguments.no_compile or arguments.tiny)
    rows: Rows = []
    for part in parts:
        found = in_own_process(rows_of, part, arguments.repeats, arguments.authors, compiled, target, arguments.tiny)
        save(found, arguments.json)
        rows += found
    finish(rows)


if __name__ == "__main__":
    main()
