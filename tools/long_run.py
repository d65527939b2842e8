"""A long run: memory, open files and threads stay flat while one process trains, saves, generates and evaluates.

    python -m tools.long_run --minutes 120 --out build/long_run

One process trains the small GAN of ``tools.faults`` on and on: a checkpoint, drawings and measures every few steps, and
now and then a fresh sampler and a whole evaluation of the weights of that moment. A thread looks at the process
every second. After the first third, which is for warming up, the mean of the last third may differ from that of the
middle one by at most 1 %. Writes ``long_run.csv``, ``long_run.svg`` and ``long_run.json``; exits with 1 if it is more.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from dmgan_fast import __version__
from dmgan_fast.errors import Preempted
from dmgan_fast.evaluation import EvaluationConfig, evaluate
from dmgan_fast.pages import inline_svg
from dmgan_fast.sampling import Sampler
from dmgan_fast.training.trainer import GANTask, train
from tools.faults.rig import Rig

FLAT = 0.01  # share by which a mean may change after warm-up
# Steps between rounds of sampling and evaluation. safetensors 0.8 loses 56 bytes for each tensor that it loads, which
# in rounds every 50 steps was most of what grew (docs/robustness.md).
EVERY = 500
QUANTITIES = {"memory": "MiB resident", "files": "open files", "threads": "threads"}
COLUMNS = ("seconds", *QUANTITIES, "steps", "rounds")
ROOT = Path(__file__).parents[1]


def look() -> dict[str, float]:
    """What this process has at the moment."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "memory": pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        "files": float(len(os.listdir("/proc/self/fd"))),
        "threads": float(len(os.listdir("/proc/self/task"))),
    }


def changes(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """By which share the mean of the last third of the rows differs from that of the middle one."""
    third = len(rows) // 3
    found = {}
    for name in QUANTITIES:
        middle, last = (
            sum(row[name] for row in part) / len(part) for part in (rows[third : 2 * third], rows[2 * third :])
        )
        found[name] = last / middle - 1
    return found


class Watch(threading.Thread):
    """Looks every second, and ends the training when the time is over."""

    def __init__(self, seconds: float, period: float) -> None:
        super().__init__(daemon=True)
        self.seconds, self.period = seconds, period
        self.counts = {"steps": 0, "rounds": 0}
        self._numbers = array("d")  # which take no memory worth watching

    def add(self, row: Mapping[str, float]) -> None:
        """What was seen at a moment."""
        self._numbers.extend(row[name] for name in COLUMNS)

    @property
    def rows(self) -> list[dict[str, float]]:
        """What was seen, by second."""
        return [dict(zip(COLUMNS, row, strict=True)) for row in zip(*[iter(self._numbers)] * len(COLUMNS), strict=True)]

    def run(self) -> None:
        began = time.monotonic()
        while (now := time.monotonic() - began) < self.seconds:
            self.add({"seconds": round(now, 1), **look(), **self.counts})
            time.sleep(self.period)
        os.kill(os.getpid(), signal.SIGTERM)


def run(rig: Rig, minutes: float, out: Path) -> Watch:
    """Train, save, generate and evaluate for so long."""
    watch = Watch(60 * minutes, max(0.2, min(1.0, minutes / 10)))
    step = GANTask.step

    def taken(task: GANTask, *args: Any) -> Any:
        losses = step(task, *args)
        watch.counts["steps"] += 1
        if watch.counts["steps"] % EVERY == 0:
            _draw_and_evaluate(rig, out)
            watch.counts["rounds"] += 1
        return losses

    GANTask.step = taken  # type: ignore[method-assign,assignment]
    loop = ("steps=1000000000", "checkpoint_every=10", "sample_every=25", "measure_every=25", "log_every=5")
    config = rig.config(tuple(f"loop.{each}" for each in loop))
    watch.start()
    try:
        with open(os.devnull, "w") as null:
            train(config, out, console=Console(file=null))
    except Preempted:
        pass
    finally:
        GANTask.step = step  # type: ignore[method-assign]
    return watch


def _draw_and_evaluate(rig: Rig, out: Path) -> None:
    """With the weights of the last checkpoint, as someone beside the training would."""
    weights = out / "weights"
    if not weights.is_dir():
        return
    Sampler.from_pretrained(weights, device="cpu").sample(["a red circle", "one square in blue"], count=2)
    config = EvaluationConfig(
        weights=str(rig.whole / "weights"),
        data=str(rig.images),
        damsm=str(rig.encoders),
        metrics=("fid-damsm",),
        count=8,
        batch_size=4,
        device="cpu",
        cache=str(rig.folder / "cache"),
    )
    place = Path(tempfile.mkdtemp(dir=rig.folder))
    with open(os.devnull, "w") as null:
        evaluate(config, place, console=Console(file=null))
    shutil.rmtree(place)


def write(watch: Watch, out: Path) -> dict[str, Any]:
    """The table, the plot and the verdict."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "long_run.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(watch.rows[0]))
        writer.writeheader()
        writer.writerows(watch.rows)
    found = changes(watch.rows)
    report = {
        "versions": {"dmgan_fast": __version__, "torch": torch.__version__},
        "minutes": round(watch.rows[-1]["seconds"] / 60, 1),
        **watch.counts,
        "change after warm-up": {name: round(value, 5) for name, value in found.items()},
        "flat": all(abs(value) <= FLAT for value in found.values()),
    }
    (out / "long_run.json").write_text(json.dumps(report, indent=1) + "\n")
    (out / "long_run.svg").write_text(str(_plot(watch.rows)))
    return report


def _plot(rows: Sequence[dict[str, float]]) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    axes = figure.subplots(len(QUANTITIES), 1, sharex=True)
    minutes = [row["seconds"] / 60 for row in rows]
    for axis, (name, label) in zip(axes, QUANTITIES.items(), strict=True):
        axis.plot(minutes, [row[name] for row in rows], linewidth=0.8)
        axis.axvline(minutes[len(rows) // 3], color="gray", linewidth=0.8, linestyle=":")
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
    axes[-1].set_xlabel("minutes; dotted: the end of warming up")
    return str(inline_svg(figure))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "long_run")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="long-run-"))
    try:
        watch = run(Rig(folder), arguments.minutes, folder / "run")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report = write(watch, arguments.out)
    print(json.dumps(report, indent=1))
    return 0 if report["flat"] else 1


if __name__ == "__main__":
    sys.exit(main())
