"""A training step on several processes of one thread each, against one process of one thread with the whole batch.

The processes are started once, each bound to a core of its own. In each round the first one takes a step alone while
the others wait, then all take it together, then each takes a step of its own rows at the same time, without exchanges:
what cores that share a clock, caches and memory could give at best. The rows of P processes carry their speed-up, the
median over rounds of alone / together, and the time that the step spent in exchanges, waiting for the others included.
Before anything is timed, losses of one and of P processes must be the same.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, distributed, multiprocessing
from torch.utils._pytree import tree_map_only

from benchmarks.common import Row, Rows, Table, environment, finish, parser_of, save, some_of, spread_of
from benchmarks.harness import spread
from benchmarks.models import Models, batch_of, ours, preset, tiny
from dmgan_fast.parallel import Processes, collectives
from dmgan_fast.parallel import gradients as gradients_of
from dmgan_fast.training.batch import Batch

SETTINGS = {
    "birds": preset("birds", 10),
    "large": preset("birds", 20),
    "demo": preset("demo", 16),
    "tiny": replace(tiny(), name="tiny B4", batch=4),
}
SAME = 1e-3  # relative, of losses in float32


def part_of(inputs: dict[str, Any], processes: Processes) -> dict[str, Any]:
    """This process's rows of what a step is called with."""
    rows = processes.part(len(inputs["noise"]))
    part = tree_map_only(Tensor, lambda x: x[rows.start : rows.stop], inputs | {"batch": vars(inputs["batch"])})
    return {**part, "batch": Batch(**part["batch"])}


@contextmanager
def watched() -> Iterator[list[float]]:
    """Seconds within exchanges, one entry each; waiting for the slowest process is among them."""
    seconds: list[float] = []
    plain = collectives.exchanging

    @contextmanager
    def timed(group: Any) -> Iterator[None]:
        begin = time.perf_counter()
        with plain(group):
            yield
        seconds.append(time.perf_counter() - begin)

    collectives.exchanging = gradients_of.exchanging = timed
    try:
        yield seconds
    finally:
        collectives.exchanging = gradients_of.exchanging = plain


def worker(rank: int, size: int, name: str, repeats: int, folder: str) -> None:
    """One of the processes; the first leaves the rounds' times in ``folder``."""
    torch.set_num_threads(1)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) >= size:
        os.sched_setaffinity(0, {cores[rank]})
    machine = environment()
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    processes, setting = Processes.of(), SETTINGS[name]
    inputs = batch_of(setting)
    alone = ours(Models.build(setting), setting.config, Processes()) if rank == 0 else None
    together = ours(Models.build(setting), setting.config)
    apart = ours(Models.build(setting), setting.config, Processes())
    part = part_of(inputs, processes)
    rounds: list[dict[str, float]] = []
    correct = True
    for number in range(repeats + 1):  # the first warms up, and is compared
        if alone is not None:
            begin = time.perf_counter()
            losses = alone(**inputs)
            one = 1e3 * (time.perf_counter() - begin)
        processes.wait()
        with watched() as seconds:
            begin = time.perf_counter()
            found = together(**part)
            all_ = 1e3 * (time.perf_counter() - begin)
        processes.wait()
        begin = time.perf_counter()
        apart(**part)
        processes.wait()
        side_by_side = 1e3 * (time.perf_counter() - begin)
        if number == 0 and alone is not None:
            correct = all(abs(found[k] - v) <= SAME * abs(v).clamp(min=1e-2) for k, v in losses.items())
        elif alone is not None:
            rounds.append({"alone": one, "together": all_, "exchanges": 1e3 * sum(seconds), "apart": side_by_side})
    if rank == 0:
        found_here = {"rounds": rounds, "correct": bool(correct), "machine": machine}
        Path(folder, "found.json").write_text(json.dumps(found_here))
    distributed.destroy_process_group()


def rows_of(name: str, size: int, repeats: int) -> Rows:
    """One process and ``size`` of them."""
    with TemporaryDirectory() as folder:
        multiprocessing.spawn(worker, (size, name, repeats, folder), nprocs=size)
        found = json.loads(Path(folder, "found.json").read_text())
    rounds, case = found["rounds"], SETTINGS[name].name
    row: Row = {"op": "processes", "case": case, "direction": "step", "correct": found["correct"]} | found["machine"]
    exchanges = {"exchange_ms": statistics.median(each["exchanges"] for each in rounds)}
    return [
        row | {"implementation": "1 process", "processes": 1} | spread([each["alone"] for each in rounds]),
        row | {"implementation": f"{size} processes"} | exchanges | against_one(rounds, "together", size),
        row | {"implementation": f"{size} processes, no exchanges"} | against_one(rounds, "apart", size),
    ]


def against_one(rounds: list[dict[str, float]], which: str, size: int) -> Row:
    """The times of all processes at once, and how many times as fast as one they are."""
    speed_ups = [each["alone"] / each[which] for each in rounds]
    more = {"speed_up": statistics.median(speed_ups), "speed_up_range": [min(speed_ups), max(speed_ups)]}
    return {"processes": size} | more | spread([each[which] for each in rounds])


def main() -> None:
    parser = parser_of(__doc__, repeats=7)
    parser.add_argument("--processes", type=int, default=2, help="how many (default 2)")
    parser.add_argument("--parts", type=some_of(SETTINGS), default=["birds", "demo"], help=f"of {','.join(SETTINGS)}")
    arguments = parser.parse_args()
    rows: Rows = []
    for part in arguments.parts:
        found = rows_of(part, arguments.processes, arguments.repeats)
        save(found, arguments.json)
        rows += found
    lines = [
        [
            row["case"],
            row["implementation"],
            spread_of(row),
            "{:.2f} ({:.2f}–{:.2f})".format(row["speed_up"], *row["speed_up_range"]) if "speed_up" in row else "",
            f"{row['exchange_ms']:.1f}" if "exchange_ms" in row else "",
        ]
        for row in rows
    ]
    Table(["case", "on", "ms (p20–p80)", "speed-up", "exchanges ms"], lines).print("one thread each")
    finish(rows)


if __name__ == "__main__":
    main()
