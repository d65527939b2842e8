"""A self-contained page: what was drawn from which caption, what each word looked at, and how training went."""

from __future__ import annotations

import base64
import csv
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dmgan_fast.data import open_dataset
from dmgan_fast.files import replace_file
from dmgan_fast.pictures import picture_of, relative, shade
from dmgan_fast.sampling.sampler import Drawing, Sampler

MAPPED = 3  # drawings shown with their maps
REAL = 8
NOT_DRAWN = {"step", "seconds", "total", "generator", "conditioning"}  # sums, and a loss a thousand times smaller
OPENMOJI = '<a href="https://openmoji.org">OpenMoji</a>'
LICENCE = '<a href="https://creativecommons.org/licenses/by-sa/4.0/">CC BY-SA 4.0</a>'

STYLE = """
:root { color-scheme: light; --ink: #1d2430; --soft: #5b6472; --line: #e3e7ee; --accent: #2f6fde; }
* { box-sizing: border-box; }
body { margin: 0; background: #f6f7fa; color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 20px 80px; }
h1 { font-size: 30px; margin: 0 0 6px; } h2 { font-size: 21px; margin: 44px 0 4px; }
p { margin: 4px 0 14px; color: var(--soft); max-width: 75ch; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 14px; }
figure { margin: 0; background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 10px; }
figure img { width: 100%; image-rendering: auto; border-radius: 6px; display: block; }
figcaption { font-size: 13.5px; line-height: 1.35; margin-top: 7px; }
.maps { display: flex; flex-wrap: wrap; gap: 10px; background: #fff; border: 1px solid var(--line);
  border-radius: 10px; padding: 12px; margin-bottom: 12px; }
.maps div { width: 104px; font-size: 12.5px; text-align: center; color: var(--soft); }
.maps img { width: 104px; height: 104px; border-radius: 6px; display: block; margin-bottom: 3px; }
.card { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px;
  margin-bottom: 12px; }
.card pre { white-space: pre-wrap; font: inherit; font-size: 14px; margin: 0; color: var(--soft); }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(340px, 1fr)); gap: 14px; }
.curves svg { width: 100%; height: auto; display: block; }
"""


@dataclass
class Section:
    """Drawings of one set of weights."""

    title: str
    card: str
    drawings: list[Drawing]

    @classmethod
    def drawn(cls, title: str, weights: Path, sampler: Sampler, captions: Sequence[str], seed: int) -> Section:
        """Draw the captions; the model card is taken from ``weights/README.md``."""
        card = (weights / "README.md").read_text(encoding="utf-8").removeprefix("# Model card").strip()
        return cls(title, card, sampler.draw(captions, seed=seed, maps=True))


def write_page(file: Path, sections: Sequence[Section], runs: dict[str, Path]) -> Path:
    """Write the page; ``runs``: title → folder of a run with ``metrics.csv``."""
    parts = [
        "<h1>dmgan_fast: from words to pictures</h1>",
        "<p>A DM-GAN draws a 64² picture from a sentence, then reads a memory of the caption's words at each pixel "
        "and refines it to 128². Below: what it drew, what each word looked at, and how it was trained.</p>",
    ]
    for section in sections:
        parts.append(f"<h2>{html.escape(section.title)}</h2>")
        parts.append(f'<div class="card"><pre>{html.escape(section.card)}</pre></div><div class="grid">')
        for drawing in section.drawings:
            parts.append(_figure(picture_of(drawing.images[-1]), drawing.caption))
        parts.append("</div>")
        if any(drawing.attention for drawing in section.drawings):
            parts.append(
                "<h2>Words and gates</h2><p>From left: the 64² and the 128² picture; in red, how much of each word a "
                "pixel reads (one scale for all words of a picture); last, the response gate: red takes the memory, "
                "gray keeps the picture.</p>"
            )
            parts += [_maps(drawing) for drawing in section.drawings[:MAPPED]]
    parts.append("<h2>Real pictures</h2><p>Held out from training, each with one of its captions.</p>")
    parts.append('<div class="grid">')
    real = open_dataset("demo", "test", image_sizes=(128,))
    for index in range(0, len(real), max(1, len(real) // REAL))[:REAL] if len(real) else ():
        parts.append(_figure(picture_of(real[index].images[0]), real.records[index].captions[0]))
    parts.append('</div><h2>Training</h2><div class="curves">')
    for title, folder in runs.items():
        parts.append(f'<div class="card">{_curves(title, folder / "metrics.csv")}</div>')
    parts.append(
        f"</div><p>The embedded pictures are derived from {OPENMOJI} ({LICENCE}); see the attribution beside them.</p>"
    )
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>dmgan_fast demo</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )
    with replace_file(file) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return file


def _figure(picture: Image.Image, caption: str) -> str:
    return f"<figure>{_image(picture, caption)}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _maps(drawing: Drawing) -> str:
    """One row: pictures, a map for each word, the response gate."""
    last = drawing.images[-1]
    tiles = [(picture_of(image), f"{image.shape[-1]}²") for image in drawing.images]
    tiles += [
        (shade(last, weight), word) for word, weight in zip(drawing.words, relative(drawing.attention[-1]), strict=True)
    ]
    tiles.append((shade(last, drawing.response_gates[-1]), "response gate"))
    cells = "".join(f"<div>{_image(picture, label)}{html.escape(label)}</div>" for picture, label in tiles)
    return f'<div class="maps">{cells}</div>'


def _image(picture: Image.Image, alt: str) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{html.escape(alt, quote=True)}" src="data:image/png;base64,{data}">'


def _curves(title: str, file: Path) -> str:
    """Losses over steps, as inline SVG."""
    from matplotlib.figure import Figure

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
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    text = buffer.getvalue()
    return text[text.index("<svg") :]
