"""Pages and tables of the committed results; ``python -m benchmarks.report`` writes those of docs and README."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from benchmarks.common import ROOT
from dmgan_fast.errors import InputError
from dmgan_fast.files import write_text
from dmgan_fast.pages import inline_svg

DOCS = ROOT / "docs"

matplotlib.rcParams.update({"font.size": 10, "svg.fonttype": "none", "font.family": "sans-serif"})
matplotlib.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True})
matplotlib.rcParams.update({"svg.hashsalt": "dmgan_fast"})  # the same figure gives the same file


def replace_after(path: Path, marker: str, text: str, end: str = "") -> None:
    """Write ``text`` between the markers; without ``end``, up to the end of the file.

    Raises:
        InputError: if the file lacks a marker.
    """
    before, found, rest = path.read_text(encoding="utf-8").partition(marker)
    if not found or end not in rest:
        raise InputError(f"{path}: has no line {(end if found else marker).strip()!r}, where the tables go")
    after = end + rest.partition(end)[2] if end else ""
    write_text(path, before + marker + text + after)


def save(figure: Figure, name: str) -> None:
    """As ``docs/figures/name``."""
    write_text(DOCS / "figures" / name, inline_svg(figure))
