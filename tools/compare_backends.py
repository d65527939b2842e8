"""Train the demo preset from one seed on the fused kernels and on the reference; plot both curves.

python tools/compare_backends.py [--steps 150] [--runs runs/compare] [--out docs/figures/fused_and_reference.svg]
"""

from __future__ import annotations

import argparse
import csv
import os
from pathlib import Path

import matplotlib
import torch

matplotlib.use("svg")
from matplotlib import pyplot as plt

from dmgan_fast.ops._backends import VARIABLE
from dmgan_fast.runs.config import PretrainConfig, TrainConfig
from dmgan_fast.runs.presets import build_config
from dmgan_fast.training.damsm import pretrain
from dmgan_fast.training.trainer import train

SKIPPED = ("step", "seconds")
RUNS = (("reference", "reference", None), ("reference on one thread", "reference", 1), ("fused", "auto", None))
STYLES = (
    {"linewidth": 3, "alpha": 0.4, "color": "tab:blue"},
    {"linewidth": 1.2, "color": "tab:orange"},
    {"linewidth": 0.8, "color": "black"},
)


def curves(run: Path) -> dict[str, list[float]]:
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0] if name not in SKIPPED}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--runs", type=Path, default=Path("runs/compare"))
    parser.add_argument("--out", type=Path, default=Path("docs/figures/fused_and_reference.svg"))
    arguments = parser.parse_args()
    encoders = arguments.runs / "encoders"
    pretrain(build_config(PretrainConfig, preset="demo", overrides=["loop.steps=60"]), encoders)
    threads = torch.get_num_threads()
    found = {}
    for label, backend, used in RUNS:
        os.environ[VARIABLE] = backend
        torch.set_num_threads(used or threads)
        overrides = [f"encoders={encoders}", f"loop.steps={arguments.steps}", "loop.log_every=1"]
        train(build_config(TrainConfig, preset="demo", overrides=overrides), arguments.runs / label.replace(" ", "_"))
        found[label] = curves(arguments.runs / label.replace(" ", "_"))

    names = list(found["fused"])
    columns = 3
    rows = -(-(len(names) + 1) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4 * columns, 2.4 * rows), squeeze=False, layout="constrained")
    for axis, name in zip(axes.flat, names, strict=False):
        for (label, *_), style in zip(RUNS, STYLES, strict=True):
            axis.plot(found[label][name], label=label, **style)
        axis.set_title(name, fontsize=9)
    last = axes.flat[len(names)]
    base = found["reference"]["generator"]
    for (label, *_), style in zip(RUNS, STYLES, strict=True):
        if label != "reference":
            gaps = [abs(a / b - 1) for a, b in zip(found[label]["generator"], base, strict=True)]
            last.semilogy(gaps, label=label, **style)
    last.set_title("generator: relative difference from the reference", fontsize=9)
    for axis in axes.flat[len(names) + 1 :]:
        axis.set_axis_off()
    for axis in axes.flat:
        axis.tick_params(labelsize=7)
    axes.flat[0].legend(fontsize=7)
    figure.supxlabel("step", fontsize=9)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.out, metadata={"Date": None})


if __name__ == "__main__":
    main()
