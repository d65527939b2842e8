"""Train the demo preset from one seed on the fused kernels and on the reference; draw both curves.

python tools/compare_backends.py [--steps 150] [--runs runs/compare] [--out docs/figures/fused_and_reference.svg]
"""

from __future__ import annotations

import argparse
import csv
import os
from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt

from dmgan_fast.ops._backends import VARIABLE
from dmgan_fast.training.config import PretrainConfig, TrainConfig, build_config
from dmgan_fast.training.damsm import pretrain
from dmgan_fast.training.trainer import train

SKIPPED = ("step", "seconds")


def curves(run: Path) -> dict[str, list[float]]:
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0] if name not in SKIPPED}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--runs", type=Path, default=Path("runs/compare"))
    parser.add_argument("--out", type=Path, default=Path("docs/figures/fused_and_reference.svg"))
    arguments = parser.parse_args()
    encoders = arguments.runs / "encoders"
    pretrain(build_config(PretrainConfig, preset="demo", overrides=["loop.steps=60"]), encoders)
    found = {}
    for label, backend in (("fused", "auto"), ("reference", "reference")):
        os.environ[VARIABLE] = backend
        overrides = [f"encoders={encoders}", f"loop.steps={arguments.steps}", "loop.log_every=1"]
        train(build_config(TrainConfig, preset="demo", overrides=overrides), arguments.runs / label)
        found[label] = curves(arguments.runs / label)

    names = list(found["fused"])
    columns = 4
    rows = -(-len(names) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3 * columns, 2.2 * rows), squeeze=False, layout="constrained")
    for axis, name in zip(axes.flat, names, strict=False):
        axis.plot(found["reference"][name], label="reference", linewidth=2.5, alpha=0.5)
        axis.plot(found["fused"][name], label="fused", linewidth=0.8, color="black")
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=7)
    for axis in axes.flat[len(names) :]:
        axis.set_axis_off()
    axes.flat[0].legend(fontsize=7)
    figure.supxlabel("step", fontsize=9)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.out, metadata={"Date": None})


if __name__ == "__main__":
    main()
