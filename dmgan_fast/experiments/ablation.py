"""Ablations (paper, section 4.3): variants of one GAN, trained from equal seeds for equal steps and measured alike.

``ablate`` trains and evaluates each variant and seed, and writes one table and one figure. What is done is not done
again, so it continues after a stop.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.console import Console

from dmgan_fast._version import __version__
from dmgan_fast.config import to_dict
from dmgan_fast.errors import InputError
from dmgan_fast.evaluation import EvaluationConfig, evaluate
from dmgan_fast.evaluation.catalogue import CANDIDATES, METRICS, Weights, named
from dmgan_fast.files import replace_file, write_text
from dmgan_fast.modules import Generator
from dmgan_fast.parallel import Processes
from dmgan_fast.runs.config import PretrainConfig, TrainConfig
from dmgan_fast.runs.presets import build_config
from dmgan_fast.sampling.bundle import open_bundle
from dmgan_fast.training.damsm import pretrain
from dmgan_fast.training.engine import finish, quiet
from dmgan_fast.training.trainer import train

VARIANTS: dict[str, tuple[str, ...]] = {
    "dm-gan": (),
    "attention": ("generator.refinement=attention",),
    "memory": ("generator.writing_gate=false", "generator.response_gate=false"),
    "memory+writing-gate": ("generator.response_gate=false",),
    "memory+response-gate": ("generator.writing_gate=false",),
    "words-only": ("generator.text=words",),
    "sentence-only": ("generator.text=sentence",),
    "no-text": ("generator.text=none", "step.damsm_weight=0"),
    "no-damsm": ("step.damsm_weight=0",),
    "official-masks": ("generator.mask_mode=official",),
    "no-refinement": ("generator.image_sizes=[64]",),
    "one-refinement": ("generator.image_sizes=[64,128]",),
    "two-refinements": ("generator.image_sizes=[64,128,256]",),
}
PAPER = ("dm-gan", "attention", "memory", "memory+writing-gate", "memory+response-gate", "no-text")
MEASURES = ("r-precision", "fid-damsm", "kid-damsm")
NAME = "ablation"  # of the report, the page and the figure
STUDENT = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060)  # t of 0.975 for 1 to 8 degrees of freedom
NORMAL = 1.959964  # the same for infinitely many


@Processes.joined()
def ablate(
    out: Path,
    *,
    variants: Sequence[str] = PAPER,
    seeds: int = 3,
    metrics: Sequence[str] = MEASURES,
    count: int = 2000,
    preset: str = "demo",
    file: Path | None = None,
    settings: Sequence[str] = (),
    data: str | None = None,
    damsm: str | None = None,
    judge: str | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Train and measure ``variants`` from seeds 0 to ``seeds - 1``. Under ``torchrun`` its processes share each run.

    ``out`` gets ``runs/VARIANT-seedN`` with its evaluation, and, renewed after each run, ``ablation.json``,
    ``ablation.md`` and ``ablation.png``.

    Args:
        out: folder; called again with the same settings, it continues where it was.
        variants: names in ``VARIANTS``, or any other setting as ``step.damsm_weight=5``. Differences are taken from
            the first.
        seeds: runs of each variant.
        metrics: those of ``evaluate``.
        count: images generated for each evaluation.
        preset, file, settings, data: of the training, as in ``build_config``; the same for all variants.
        damsm: encoders; None: the preset's pretraining goes first, into ``out/encoders``.
        judge: other encoders to measure with, so that no run is judged by those it was trained to please.

    Returns:
        the report, as ``ablation.json`` holds it.

    Raises:
        InputError: for settings that are not allowed, before any work.
        CheckpointError: if ``out`` holds runs with other settings, or weights for a metric are not here.
        Interrupted: after Ctrl-C; what was done is kept.
    """
    first = Processes.of().first
    console = quiet(Processes.of()) or console or Console(stderr=True)
    _check(variants, seeds, metrics, count, (damsm, judge))
    encoders = damsm or str(out / "encoders")
    values: dict[str, Any] = {"encoders": encoders} | ({"data": {"source": data}} if data else {})
    configs = {
        (name, seed): build_config(
            TrainConfig,
            preset=preset,
            file=file,
            overrides=[*settings, *_overrides(name), f"loop.seed={seed}"],
            values=values,
        )
        for seed in range(seeds)  # seeds outside: a stopped ablation has compared all variants
        for name in variants
    }
    if damsm is None:
        values = {"data": {"source": data}} if data else {}
        finish(pretrain, build_config(PretrainConfig, preset=preset, values=values), out / "encoders", console)
    report: dict[str, Any] = {
        "version": __version__,
        "variants": {name: list(_overrides(name)) for name in variants},
        "config": to_dict(configs[variants[0], 0]),
        "judge": judge or encoders,
        "count": count,
        "metrics": list(metrics),
        "runs": [],
    }
    for (name, seed), config in configs.items():
        folder = out / "runs" / f"{name}-seed{seed}"
        console.print(f"{name}, seed {seed}")
        finish(train, config, folder, console)
        measuring = EvaluationConfig(weights=str(folder), damsm=judge or encoders, count=count, metrics=tuple(metrics))
        measured = evaluate(measuring, folder / "evaluation", console=console)
        report["runs"].append(
            {
                "variant": name,
                "seed": seed,
                "values": {metric["name"]: metric["value"] for metric in measured["metrics"]},
                "parameters": _parameters(config),
                "seconds": _seconds(folder),
            }
        )
        if first:
            write(out / NAME, report, markdown(report), draw(report))
    return report


def _check(
    variants: Sequence[str], seeds: int, metrics: Sequence[str], count: int, given: Sequence[str | None]
) -> None:
    if seeds < 1:
        raise InputError(f"ablate: seeds must be at least 1, got {seeds}")
    for metric in named(metrics):
        if metric.kind == "retrieval" and count < CANDIDATES:
            raise InputError(f"ablate: {metric.name} needs a count of at least {CANDIDATES}, got {count}")
        if metric.extractor != "damsm":
            Weights(inception=None, classifier=None, damsm="").load(metric.extractor, torch.device("cpu"))
    if not variants or len(set(variants)) < len(variants):
        raise InputError(f"ablate: variants must be names, each once, got {', '.join(variants) or 'none'}")
    for encoders in given:
        if encoders is not None:
            open_bundle(encoders, "image_encoder", "text_encoder")


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half of its 95 % confidence interval by Student's t; the half is NaN for fewer than two values."""
    count = len(values)
    mean = sum(values) / count
    if count < 2:
        return mean, float("nan")
    deviation = (sum((value - mean) ** 2 for value in values) / (count - 1)) ** 0.5
    return mean, student(count - 1) * deviation / count**0.5


def student(freedom: int) -> float:
    """Student's t of 0.975, within 5e-4 (Abramowitz and Stegun, 26.7.5)."""
    if freedom <= len(STUDENT):
        return STUDENT[freedom - 1]
    z, n = NORMAL, freedom
    second, third = 5 * z**5 + 16 * z**3 + 3 * z, 3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z
    return z + (z**3 + z) / (4 * n) + second / (96 * n**2) + third / (384 * n**3)


def values_of(report: dict[str, Any], variant: str, metric: str) -> dict[int, float]:
    """Seed → value."""
    return {run["seed"]: run["values"][metric] for run in report["runs"] if run["variant"] == variant}


def _overrides(variant: str) -> tuple[str, ...]:
    if variant in VARIANTS:
        return VARIANTS[variant]
    if "=" in variant:
        return (variant,)
    raise InputError(f"variant must be a setting KEY=VALUE or one of {', '.join(VARIANTS)}, got {variant!r}")


def _parameters(config: TrainConfig) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Generator(config.generator).parameters())


def _seconds(folder: Path) -> float:
    with (folder / "metrics.csv").open(newline="") as stream:
        return float(list(csv.DictReader(stream))[-1]["seconds"])


def write(target: Path, report: dict[str, Any], page: str, figure: Figure) -> Path:
    """``target`` with ``.json``, ``.md`` and ``.png``; the page's path."""
    for suffix, text in ((".json", json.dumps(report, indent=2)), (".md", page)):
        write_text(f"{target}{suffix}", text + "\n")
    with replace_file(f"{target}.png") as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    return Path(f"{target}.md")


def markdown(report: dict[str, Any]) -> str:
    """The tables: each variant, and its difference from the first."""
    loop, metrics = report["config"]["loop"], [METRICS[name] for name in report["metrics"]]
    first, *others = report["variants"]
    done = [name for name in report["variants"] if any(run["variant"] == name for run in report["runs"])]
    lines = [
        "# Ablation",
        "",
        f"{loop['steps']} steps of {loop['batch_size']} images on {report['config']['data']['source']!r}, "
        f"{report['count']} images generated for each evaluation. Mean over seeds ± half of the 95 % confidence "
        "interval (Student's t).",
        "",
        "| variant | seeds | "
        + " | ".join(f"`{m.name}` ({m.better} is better)" for m in metrics)
        + " | generator's parameters |",
        "|---" * (len(metrics) + 3) + "|",
    ]
    for name in done:
        runs = [run for run in report["runs"] if run["variant"] == name]
        cells = [shown(interval(list(values_of(report, name, m.name).values()))) for m in metrics]
        lines.append(f"| {name} | {len(runs)} | {' | '.join(cells)} | {runs[0]['parameters']:,} |")
    others = [name for name in others if name in done]
    if others:
        lines += [
            "",
            f"Difference from {first}, paired by seed; **bold** where its interval leaves out zero:",
            "",
            "| variant | " + " | ".join(f"`{m.name}`" for m in metrics) + " |",
            "|---" * (len(metrics) + 1) + "|",
        ]
    for name in others:
        cells = []
        for metric in metrics:
            base, mine = values_of(report, first, metric.name), values_of(report, name, metric.name)
            mean, half = interval([mine[seed] - base[seed] for seed in mine])
            cells.append(f"**{shown((mean, half), '+')}**" if abs(mean) > half else shown((mean, half), "+"))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    settings = [
        f"- {name}: {', '.join(f'`{each}`' for each in overrides) or 'as configured'}"
        for name, overrides in report["variants"].items()
    ]
    return "\n".join([*lines, "", *settings])


def shown(found: tuple[float, float], sign: str = "") -> str:
    mean, half = found
    return f"{mean:{sign}.3g}" + (f" ± {half:.2g}" if half == half else "")


def draw(report: dict[str, Any]) -> Figure:
    """A panel for each metric: seeds as dots, means with their intervals."""
    names = [name for name in report["variants"] if any(run["variant"] == name for run in report["runs"])]
    metrics = [METRICS[name] for name in report["metrics"]]
    figure = Figure(figsize=(3.6 * len(metrics) + 1.2, 0.42 * len(names) + 1.2), layout="constrained")
    for number, metric in enumerate(metrics):
        axes = figure.add_subplot(1, len(metrics), number + 1)
        for row, name in enumerate(names):
            values = list(values_of(report, name, metric.name).values())
            mean, half = interval(values)
            axes.plot(values, [row] * len(values), "o", color="0.7", markersize=4)
            axes.errorbar(mean, row, xerr=half if half == half else None, fmt="o", color="tab:blue", capsize=3)
        axes.set_yticks(range(len(names)), names if number == 0 else [""] * len(names))
        axes.invert_yaxis()
        axes.grid(axis="x", alpha=0.25)
        axes.set_title(f"{metric.name} ({metric.better} is better)", fontsize=9)
    return figure
