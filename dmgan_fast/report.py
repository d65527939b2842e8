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
from dmgan_fast.pictures import picture_of, relative, shade
from dmgan_fast.sampling.sampler import Drawing, Sampler

MAPPED = 3  # drawings shown with their maps
REAL = 8
NOT_DRAWN = {"step", "seconds", "total", "generator", "conditioning"}  # sums, and a loss a thousand times smaller
Tile = tuple[Image.Image, str]


@dataclass
class Section:
    """Drawings of one set of weights."""

    title: str
    card: str
    drawings: list[Drawing]

    @classmethod
    def drawn(cls, title: str, weights: Path, sampler: Sampler, captions: Sequence[str], seed: int) -> Section:
        """Generate the captions; the model card is taken from ``weights/README.md``."""
        card = (weights / "README.md").read_text(encoding="utf-8").removeprefix("# Model card").strip()
        return cls(title, card, sampler.draw(captions, seed=seed, maps=True))

    @property
    def maps(self) -> list[list[Tile]]:
        """A row for each of the first drawings with maps: images, a map for each word, the response gate."""
        return [tiles for _, tiles in self.captioned[:MAPPED]]

    @property
    def captioned(self) -> list[tuple[Drawing, list[Tile]]]:
        """Every result with maps, and its row."""
        return [(drawing, _tiles(drawing)) for drawing in self.drawings if drawing.attention]


def write_page(file: Path, sections: Sequence[Section], runs: dict[str, Path]) -> Path:
    """Write the page; ``runs``: title → folder of a run with ``metrics.csv``."""
    held_out = open_dataset("demo", "test", image_sizes=(128,))
    places = range(0, len(held_out), max(1, len(held_out) // REAL))[:REAL] if len(held_out) else ()
    return pages.write_page(
        file,
        pages.TEMPLATES / "report.html",
        sections=sections,
        real=[(picture_of(held_out[k].images[0]), held_out.records[k].captions[0]) for k in places],
        curves=[pages.inline_svg(loss_curves(title, folder / "metrics.csv")) for title, folder in runs.items()],
    )


def _tiles(drawing: Drawing) -> list[Tile]:
    last = drawing.images[-1]
    weights = zip(drawing.words, relative(drawing.attention[-1]), strict=True)
    return [
        *((picture_of(image), f"{image.shape[-1]}²") for image in drawing.images),
        *((shade(last, weight), word) for word, weight in weights),
        *((shade(last, gate), "response gate") for gate in drawing.response_gates[-1:]),
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
