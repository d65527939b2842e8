"""Whole training steps: the authors' loop (as it is, compiled, under the default allocator, from a checkout) and ours.

Before anything is timed, a narrow model takes steps from one state, ours and the authors': weights in float64 and
losses in float32 must be the same. Then implementations take turns at full width.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.authors.checkout import CheckoutStep
from benchmarks.common import Row, Rows, case_table, environment, finish, parser_of, save, some_of
from benchmarks.harness import (
    TOLERANCE,
    allocation_peak,
    error,
    in_own_process,
    is_out_of_memory,
    limited_memory,
    spread,
    take_turns,
)
from benchmarks.models import BIRDS, COCO, DEMO, Models, Setting, batch_of, ours, theirs
from dmgan_fast.training.policy import MemoryPolicy

Step = Callable[..., Any]
DIRECTION = "step"
GATE_STEPS = {torch.float64: 10, torch.float32: 2}  # in float32 training amplifies the last bit
EXACT = 1e-9  # relative, in float64
DEFAULT_ALLOCATOR = "authors, default allocator"


# ------------------------------------------------------------------------------------------------------ correctness


def gate(setting: Setting) -> bool:
    """True if our steps are the authors': in float64 the same weights, in float32 the same losses.

    Spectral norms iterate on every forward here, as the authors' do. Weights in float32 are no measure: Adam's first
    step takes the sign of a gradient, which rounding turns around where it is nothing but rounding.
    """
    setting = setting.narrow().changed(spectral_norm="official")
    start = Models.build(setting)
    weights: dict[str, Tensor] = {}
    losses: dict[str, list[dict[str, Tensor]]] = {}
    for name, make, dtype in (
        ("truth", theirs, torch.float64),
        ("ours in float64", ours, torch.float64),
        ("ours", ours, torch.float32),
    ):
        step: Any = make(start.copy(dtype), setting.config)
        losses[name] = [step(**batch_of(setting, dtype=dtype)) for _ in range(GATE_STEPS[dtype])]
        weights[name] = torch.cat([p.detach().flatten() for p in step.generator.parameters()])
    exact = error(weights["ours in float64"], weights["truth"]) <= EXACT
    return exact and all(
        error(found[name], value) <= TOLERANCE[torch.float32]
        for found, truth in zip(losses["ours"], losses["truth"], strict=False)
        for name, value in truth.items()
    )


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


def implementations(setting: Setting, authors: Path | None, compiled: bool) -> dict[str, Step]:
    models = Models.build(setting)
    found: dict[str, Step] = {"authors": theirs(models, setting.config)}
    if authors is not None:
        channels = setting.train.discriminator_channels
        found["authors' code"] = CheckoutStep(authors, setting.generator, channels, setting.config)
    if compiled:
        step = theirs(models, setting.config)
        step.compile()
        found["authors+compile"] = step
    found["dmgan_fast"] = ours(models.copy(), setting.config)
    for level in ("op", "block"):
        policy = MemoryPolicy(checkpointing=level)
        found[f"dmgan_fast, keeps {level}s"] = ours(models.copy(), replace(setting.config, memory=policy))
    return found


def case(setting: Setting, repeats: int, authors: Path | None, machine: Row, compiled: bool) -> Rows:
    """Rows of one setting."""
    correct = gate(setting)
    steps = implementations(setting, authors, compiled)
    inputs = batch_of(setting)
    rows = []
    with default_allocator(setting) as child:
        functions: dict[str, Callable[[], Any]] = {name: lambda s=step: s(**inputs) for name, step in steps.items()}
        functions[DEFAULT_ALLOCATOR] = child
        times = take_turns(functions, repeats)
    for name in functions:
        row = {"op": "step", "case": setting.name, "implementation": name, "direction": DIRECTION} | machine
        if name == DEFAULT_ALLOCATOR:
            row["allocator"] = "glibc's defaults"
        peak = allocation_peak(functions[name], "cpu") if name in steps else None
        rows.append(row | spread(times[name]) | {"peak_bytes": peak, "saved_bytes": None, "correct": correct})
    return rows


# --------------------------------------------------------------------------------------------------- throughput, start


def throughput(setting: Setting, batches: tuple[int, ...], repeats: int, machine: Row) -> Rows:
    """Milliseconds of our step and the authors' by batch; a cell that runs out of memory says so."""
    models = Models.build(setting)
    rows: Rows = []
    with limited_memory():
        # Ours first, the smallest batches first: what a failed allocation leaves behind is in nobody's way.
        for name, make in (("dmgan_fast", ours), ("authors", theirs)):
            step = make(models, setting.config)
            for size in batches:
                row = {"op": "throughput", "case": f"{setting.name.split()[0]} B{size}", "implementation": name}
                row |= {"direction": DIRECTION, "batch": size} | machine
                inputs = batch_of(setting, size)
                try:
                    times = take_turns({name: lambda s=step, i=inputs: s(**i)}, repeats)[name]
                except (RuntimeError, MemoryError) as failure:
                    if not is_out_of_memory(failure):
                        raise
                    rows.append(row | {"out_of_memory": True, "correct": True})
                    continue
                rows.append(row | spread(times) | {"correct": True})
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


SETTINGS = {"birds": BIRDS, "coco": COCO, "demo": DEMO}
PARTS = (*SETTINGS, "throughput", "start")


def rows_of(part: str, repeats: int = 5, authors: Path | None = None, compiled: bool = True) -> Rows:
    """Every row of one part."""
    machine = environment()
    if part == "throughput":
        return throughput(BIRDS, (4, 8, 32), 1, machine)
    if part == "start":
        return time_to_first_step(2, machine)
    rows = case(SETTINGS[part], repeats, authors, machine, compiled and part == "birds")
    case_table(rows).print(f"step: {SETTINGS[part].name}")
    return rows


def main() -> None:
    parser = parser_of(f"{__doc__}\nRows of other cases in the file of --json stay.", repeats=5)
    parser.add_argument("--authors", type=Path, metavar="PATH", help="a checkout of the authors' DM-GAN, also timed")
    parser.add_argument("--parts", type=some_of(PARTS), default=PARTS, help=f"of {','.join(PARTS)} (default: all)")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    arguments = parser.parse_args()
    rows: Rows = []
    for part in arguments.parts:
        found = in_own_process(rows_of, part, arguments.repeats, arguments.authors, not arguments.no_compile)
        save(found, arguments.json)
        rows += found
    finish(rows)


if __name__ == "__main__":
    main()
