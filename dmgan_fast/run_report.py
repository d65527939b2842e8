"""A run as one self-contained page: curves, samples over time, attention, metrics, memory, environment."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from dmgan_fast import pages
from dmgan_fast.config import load_config
from dmgan_fast.data import open_dataset
from dmgan_fast.errors import DMGANError, InputError
from dmgan_fast.evaluation.summary import read_report, shown
from dmgan_fast.files import load_json
from dmgan_fast.metering.meter import KINDS
from dmgan_fast.progress import show_time
from dmgan_fast.report import Section, loss_curves
from dmgan_fast.runs.config import TrainConfig
from dmgan_fast.runs.environment import read_environment
from dmgan_fast.sampling.bundle import BEST, BEST_NAME
from dmgan_fast.sampling.sampler import Sampler
from dmgan_fast.sizes import show_size

NAME = "report.html"
SAMPLES = 8  # sheets shown, evenly over the run
SHEET_WIDTH = 1024
CAPTIONS = 3
BETTER = {"fid": "lower", "kid": "lower", "r_precision": "higher"}
Rows = list[dict[str, float]]


def write_report(run: Path, out: Path | None = None, *, captions: Sequence[str] = (), seed: int = 0) -> Path:
    """Write the page.

    Args:
        run: folder of a run of ``train`` or ``pretrain``, finished or not.
        out: the file; None: ``report.html`` in the run.
        captions: what to generate with maps; none: captions of the run's held-out images.
        seed: of the noise.

    Raises:
        InputError: if ``run`` is no run.
    """
    config = _config(run)
    metrics, measures = _rows(run / "metrics.csv"), _rows(run / "measures.csv")
    section, why_not = _generated(run, config, captions, seed) if config["kind"] == "gan" else (None, "")
    return pages.write_page(
        out or run / NAME,
        pages.TEMPLATES / "run.html",
        name=run.absolute().name,
        kind="GAN" if config["kind"] == "gan" else "Encoders (DAMSM)",
        facts=_facts(config, metrics),
        curves=_curves(run, metrics, measures, config["loop"]["batch_size"]),
        sheets=_sheets(run / "samples"),
        section=section,
        why_not=why_not,
        measures=_best(run, measures),
        evaluation=_evaluation(run),
        memory=_memory(config) if config["kind"] == "gan" else [],
        environment=read_environment(run),
        settings=json.dumps(config, indent=2),
    )


def _config(run: Path) -> dict[str, Any]:
    try:
        config = load_json(run / "config.json")
        config["kind"], config["loop"]["batch_size"], config["data"]["source"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"report: {str(run)!r} is not the folder of a run: it has no config.json of one") from None
    return dict(config)


def _rows(file: Path) -> Rows:
    """The numbers of a table; a last line that is being written is left out."""
    if not file.is_file():
        return []
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    found = []
    for row in rows:
        try:
            found.append({name: float(value) for name, value in row.items()})
        except (TypeError, ValueError):
            continue
    return found


def _facts(config: dict[str, Any], metrics: Rows) -> dict[str, str]:
    steps, batch = config["loop"]["steps"], config["loop"]["batch_size"]
    done = int(metrics[-1]["step"]) if metrics else 0
    facts = {"Data": str(config["data"]["source"]), "Steps": f"{done:,} of {steps:,}, {batch} images each"}
    if metrics and metrics[-1]["seconds"]:
        seconds = metrics[-1]["seconds"]
        facts["Time"] = f"{show_time(seconds)}, {done * batch / seconds:.1f} images per second"
    return facts


def _curves(run: Path, metrics: Rows, measures: Rows, batch: int) -> list[tuple[str, list[Markup]]]:
    """A title and figures for each table that has rows."""
    speed = [
        {"step": row["step"], "images per second": batch * (row["step"] - before["step"]) / passed}
        for before, row in pairwise(metrics)
        if (passed := row["seconds"] - before["seconds"]) > 0
    ]
    figures = {
        "Losses": [loss_curves("Losses", run / "metrics.csv")] if metrics else [],
        "Throughput": _panels(speed),
        "Held-out images": _panels(_rows(run / "validation.csv")),
        "Gates": _panels(_rows(run / "gates.csv")),
        "Measures": _panels(measures),
    }
    return [(title, [pages.inline_svg(each) for each in found]) for title, found in figures.items() if found]


def _panels(rows: Rows) -> list[Figure]:
    """A small diagram for each column."""
    return [_panel(name, rows) for name in (rows[0] if rows else {}) if name not in ("step", "seconds", "chance")]


def _panel(name: str, rows: Rows) -> Figure:
    figure = Figure(figsize=(3.3, 2.5), layout="constrained")
    axes = figure.add_subplot()
    known = [row for row in rows if name in row]
    axes.plot([row["step"] for row in known], [row[name] for row in known], marker="o", markersize=2.5, linewidth=1.4)
    axes.set_title(name.replace("_", " "), fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    return figure


def _sheets(folder: Path) -> list[tuple[int, Image.Image]]:
    """Step and sheet of samples, evenly over the run, the last always."""
    files = sorted(folder.glob("step-*.png"))
    count = min(SAMPLES, len(files))
    chosen = [files[round(k * (len(files) - 1) / max(1, count - 1))] for k in range(count)] if count > 1 else files
    found = []
    for file in chosen:
        with Image.open(file) as sheet:
            image = sheet.convert("RGB")
        image.thumbnail((SHEET_WIDTH, 4 * SHEET_WIDTH))
        found.append((int(file.stem.removeprefix("step-")), image))
    return found


def _generated(run: Path, config: dict[str, Any], captions: Sequence[str], seed: int) -> tuple[Section | None, str]:
    """Images with maps, or why there are none."""
    try:
        sampler = Sampler.from_pretrained(run, device="cpu")
        said = list(captions) or _held_out(config)
        return Section("", "", sampler.sample(said, seed=seed, maps=True)), ""
    except DMGANError as error:
        if captions:
            raise
        return None, f"Nothing was generated: {error}"


def _held_out(config: dict[str, Any]) -> list[str]:
    """One caption of each of some held-out images."""
    size = config["generator"]["image_sizes"][0]
    held_out = open_dataset(config["data"]["source"], "test", image_sizes=(size,))
    count = min(CAPTIONS, len(held_out))
    return [held_out.records[k * len(held_out) // count].captions[0] for k in range(count)]


def _best(run: Path, measures: Rows) -> list[dict[str, str]]:
    """What was measured while it trained: the last, and of the kept weights."""
    if not measures:
        return []
    best: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        best = load_json(run / BEST / BEST_NAME)
    kept = best.get("measures", {})
    return [
        {
            "name": name.replace("_", " "),
            "last": f"{value:.4g}",
            "best": f"{kept[name]:.4g} (step {best['step']})" if name in kept else "",
            "better": BETTER.get(name, ""),
        }
        for name, value in measures[-1].items()
        if name not in ("step", "seconds")
    ]


def _evaluation(run: Path) -> list[dict[str, str]]:
    """The results of ``evaluate`` with ``--out`` inside the run."""
    found = []
    for folder in (run, *sorted(each for each in run.iterdir() if each.is_dir())):
        report = read_report(folder)
        for metric in report["metrics"] if report else ():
            found.append({"name": metric["title"], "value": shown(metric), "better": metric["better"]})
    return found


def _memory(config: dict[str, Any]) -> list[tuple[str, str]]:
    """Predicted bytes of a training step by kind; nothing where the encoders are not here to be counted."""
    from dmgan_fast.training.planning.measure import measure_of

    try:
        settings = {name: value for name, value in config.items() if name != "kind"}
        built = load_config(TrainConfig, settings, where="config.json")
        device = "cuda" if built.loop.device.startswith("cuda") else "cpu"
        cost = measure_of(built, device)(built.step.memory, built.loop.batch_size)
    except DMGANError:
        return []
    rows = [(kind, show_size(cost.peak[kind])) for kind in KINDS if cost.peak.get(kind)]
    return [*rows, ("in all", show_size(cost.peak_bytes))]
