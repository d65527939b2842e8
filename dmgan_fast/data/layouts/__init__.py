"""The layouts in which sets of captioned images come: one reader each, found out by what a folder holds."""

from __future__ import annotations

from pathlib import Path

from dmgan_fast.data.layouts import (
    attngan,
    captions_file,
    coco,
    cub,
    flowers,
    imagefolder,
    lists,
    side_by_side,
    webdataset,
)
from dmgan_fast.data.layouts.base import Layout, entries
from dmgan_fast.data.rows import Contents
from dmgan_fast.errors import DataError

# In this order: what other people's tools wrote goes before what is found by its looks.
LAYOUTS: tuple[Layout, ...] = (
    attngan,
    captions_file,
    imagefolder,
    cub,
    flowers,
    coco,
    lists,
    webdataset,
    side_by_side,
)
BY_LOOKS = (lists, side_by_side)
NEIGHBOURS = 50  # folders in which to look for a set that is not where it was sought


def find(folder: Path) -> Layout | None:
    """The layout of a folder."""
    return next((layout for layout in LAYOUTS if layout.is_here(folder)), None)


def read(folder: Path) -> Contents:
    """Every row of the data set in ``folder``, and by name what became none.

    Raises:
        DataError: if its layout is not known, with the nearest one and what it misses; if nothing can be read.
    """
    if folder.is_file() and folder.suffix.lower() == ".tar":
        return webdataset.read(folder)
    if folder.is_file():
        raise DataError(f"no data set at {str(folder)!r}: a file, not a folder; give the folder that holds it")
    if not folder.is_dir():
        raise DataError(f"no data set at {str(folder)!r}: not a folder (or give 'demo' for the embedded set)")
    try:
        layout = find(folder)
        if layout is not None:
            return layout.read(folder)
        advice = _advice(folder)
    except OSError as error:
        raise DataError(f"data set at {str(folder)!r} can't be read: {error}") from None
    raise DataError(f"no data set at {str(folder)!r}: {advice}")


def _advice(folder: Path) -> str:
    """What is nearest, and what is missing."""
    for place in _neighbours(folder):
        layout = next((layout for layout in LAYOUTS if layout not in BY_LOOKS and layout.is_here(place)), None)
        if layout is not None:
            return f"but {str(place)!r} is one ({layout.NAME}); give that folder"
    layout, needed = max(((layout, layout.needed(folder)) for layout in LAYOUTS), key=lambda pair: _share(pair[1]))
    found = ", ".join(name for name, there in needed.items() if there)
    missing = ", ".join(name for name, there in needed.items() if not there)
    looked = f"looked for {', '.join(layout.SIGN for layout in LAYOUTS)}; docs/data.md shows every layout"
    near = f"nearest is {layout.NAME}, with {found}, but without {missing}" if found else "no layout is near"
    return f"{near}; the folder holds {entries(folder)}; {looked}"


def _share(needed: dict[str, bool]) -> tuple[float, int]:
    return sum(needed.values()) / len(needed), sum(needed.values())


def _neighbours(folder: Path) -> list[Path]:
    inside = sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    return [*inside[:NEIGHBOURS], folder.resolve().parent]
