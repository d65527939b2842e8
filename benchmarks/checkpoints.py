"""How long a checkpoint keeps training waiting: written in the background, and while training waits for it.

A training step of the preset continues while a checkpoint is written. What a checkpoint costs is the time that ``save``
takes, and what the steps beside the writing take longer than others; ``share`` is that, of the steps between two
checkpoints. Before anything is timed, what was written while training continued is compared with a copy of its step.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.common import Row, Rows, Table, environment, finish, parser_of
from benchmarks.harness import spread
from benchmarks.models import BIRDS, DEMO, Models, Setting, batch_of, ours, tiny
from dmgan_fast.runs.checkpoints import Checkpoints, checkpoint_file, load_checkpoint
from dmgan_fast.runs.config import LoopConfig
from dmgan_fast.runs.snapshot import bytes_of, snapshot, tensors

SETTINGS = {"birds": BIRDS, "demo": DEMO, "tiny": tiny()}
EVERY = LoopConfig().checkpoint_every
LEAST = 3  # steps beside each checkpoint
MOST = 50


def is_of_its_step(step: Any, inputs: dict[str, Any], folder: Path) -> bool:
    """Whether a checkpoint that is written while training continues has the bits of its step."""
    with Checkpoints(folder) as saving:
        expected = snapshot(step.state_dict())
        saving.save({"kind": "gan", "step": 0, "task": step.state_dict()})
        step(**inputs)
    found = load_checkpoint(checkpoint_file(folder, 0))["task"]
    pairs = zip(tensors(expected), tensors(found), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def rows_of(setting: Setting, repeats: int, folder: Path, *, every: int = EVERY) -> Rows:
    """A row for each way of saving.

    Args:
        setting: whose steps are taken.
        repeats: checkpoints of each.
        folder: on the disk that is measured.
        every: steps between two checkpoints of a run.
    """
    step, inputs = ours(Models.build(setting), setting.config), batch_of(setting)

    def seconds_of_a_step() -> float:
        began = time.perf_counter()
        float(next(iter(step(**inputs).values())))  # waits for the device
        return time.perf_counter() - began

    seconds_of_a_step()
    correct = is_of_its_step(step, inputs, folder / "check")
    alone = statistics.median(seconds_of_a_step() for _ in range(2 * LEAST))
    rows: Rows = []
    for name, background in (("in the background", True), ("waiting", False)):
        costs: list[float] = []
        with Checkpoints(folder / name, background=background) as saving:
            for number in range(repeats):
                began = time.perf_counter()
                saving.save({"kind": "gan", "step": number, "task": step.state_dict()})
                cost = time.perf_counter() - began
                beside = [seconds_of_a_step()]
                while len(beside) < MOST and (len(beside) < LEAST or saving.busy):
                    beside.append(seconds_of_a_step())
                saving.wait()
                costs.append(cost + max(0.0, sum(beside) - alone * len(beside)))
        row: Row = {"op": "checkpoint", "case": setting.name, "implementation": name, "direction": "save"}
        row |= spread([1e3 * cost for cost in costs])
        row |= {"step_ms": 1e3 * alone, "bytes": bytes_of(step.state_dict()), "every": every}
        rows.append(row | {"share": row["median_ms"] / (1e3 * alone * every), "correct": correct} | environment())
    return rows


def table(rows: Rows) -> Table:
    """For people."""
    heads = ["checkpoint", "ms (p20–p80)", "step ms", "MiB", "share of training"]
    lines = [
        [
            f"{row['case']}, {row['implementation']}",
            f"{row['median_ms']:.1f} ({row['p20_ms']:.1f}–{row['p80_ms']:.1f})",
            f"{row['step_ms']:.1f}",
            f"{row['bytes'] / 2**20:.0f}",
            f"{100 * row['share']:.3f} % at one in {row['every']} steps",
        ]
        for row in rows
    ]
    return Table(heads, lines)


def main() -> None:
    parser = parser_of(__doc__, repeats=5)
    parser.add_argument("--setting", choices=SETTINGS, default="birds", help="whose steps (default: birds)")
    parser.add_argument("--folder", type=Path, help="on the disk to measure (default: a temporary one)")
    arguments = parser.parse_args()
    with TemporaryDirectory(dir=arguments.folder) as folder:
        rows = rows_of(SETTINGS[arguments.setting], arguments.repeats, Path(folder))
    table(rows).print("checkpoints")
    finish(rows, arguments.json)


if __name__ == "__main__":
    main()
