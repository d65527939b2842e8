"""A self-contained page: what was generated from which caption, what each word looked at, and how training went."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from dmgan_fast import pages
from dmgan_fast.data import open_dataset
from dmgan_fast.images import pil_image, relative, shade
from dmgan_fast.sampling.sampler import Sample, Sampler

MAPPED = 3  # samples shown with their maps
REAL = 8
NOT_DRAWN = {"step", "seconds", "total", "generator", "conditioning"}  # sums, and a loss a thousand times smaller
Tile = tuple[Image.Image, str]


@dataclass
class Section:
    """Drawings of one set of weights."""

    title: str
    card: str
    samples: list[Sample]

    @classmethod
    def generated(cls, title: str, weights: Path, sampler: Sampler, captions: Sequence[str], seed: int) -> Section:
        """Generate the captions; the model card is taken from ``weights/README.md``."""
        card = (weights / "README.md").read_text(encoding="utf-8").removeprefix("# Model card").strip()
        return cls(title, card, sampler.sample(captions, seed=seed, maps=True))

    @property
    def maps(self) -> list[list[Tile]]:
        """A row for each of the first samples with maps: images, a map for each word, the response gate."""
        return [tiles for _, tiles in self.captioned[:MAPPED]]

    @property
    def captioned(self) -> list[tuple[Sample, list[Tile]]]:
        """Every result with maps, and its row."""
        return [(sample, _tiles(sample)) for sample in self.samples if sample.attention]


def write_page(file: Path, sections: Sequence[Section], runs: dict[str, Path]) -> Path:
    """Write the page; ``runs``: title → folder of a run with ``metrics.csv``."""
    held_out = open_dataset("demo", "test", image_sizes=(128,))
    places = range(0, len(held_out), max(1, len(held_out) // REAL))[:REAL] if len(held_out) else ()
    return pages.write_page(
        file,
        pages.TEMPLATES / "report.html",
        sections=sections,
        real=[(pil_image(held_out[k].images[0]), held_out.records[k].captions[0]) for k in places],
        curves={title: pages.inline_svg(loss_curves(title, folder / "metrics.csv")) for title, folder in runs.items()},
    )


def _tiles(sample: Sample) -> list[Tile]:
    last = sample.images[-1]
    weights = zip(sample.words, relative(sample.attention[-1]), strict=True)
    return [
        *((pil_image(image), f"{image.shape[-1]}²") for image in sample.images),
        *((shade(last, weight), word) for word, weight in weights),
        *((shade(last, gate), "response gate") for gate in sample.response_gates[-1:]),
    ]


def loss_curves(title: str, file: Path) -> Figure:
    """Losses over steps."""
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    figure = Figure(figsize=(6.2, 3.6), layout="constrained")
    axes = figure.add_subplot()
    steps = [int(row["step"]) for row in rows]
    for name in [name for name in rows[0] if name not in NOT_DRAWN] if rows else []:
        axes.plot(steps, [float(row[name]) for row in rows], label=name.replace("_", " "), linewidth=1.6)
    minutes = float(rows[-1]["seconds"]) / 60 if rows else 0.0
    axes.set(title=f"{title}: {steps[-1] if steps else 0} steps in {minutes:.1f} min", xlabel="step", ylabel="loss")
    axes.set_yscale("log")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, ncols=2)
    return figure
