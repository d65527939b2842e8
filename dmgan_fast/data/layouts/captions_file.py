"""Any folder of images with a captions file.

    DIR/captions.jsonl   {"image": "a/b.jpg", "captions": ["...", "..."], "class_id": 3, "split": "train"} a line
    DIR/captions.csv     columns image, caption (a row for each caption), and if you like class_id, split

Without a split, about one image in ten is test, by the hash of its name. Without a class, each image is its own.
Images are turned upright as their EXIF data say, unless a row has "as_stored": true or a "box": [x, y, width, height],
which crops as for CUB. DIR/vocabulary.json, a list of words, fixes their indices; else the training captions do.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dmgan_fast.data.layouts.base import Box, box_of, holds, merged
from dmgan_fast.data.names import Files, is_outside
from dmgan_fast.data.rows import Contents, Gatherer, whole_number
from dmgan_fast.data.tables import csv_table, json_lines, short
from dmgan_fast.data.vocabulary import Vocabulary
from dmgan_fast.errors import DataError

NAME = "images with captions.jsonl or captions.csv"
SIGN = "captions.jsonl and captions.csv"
FILES = ("captions.jsonl", "captions.csv")
VOCABULARY = "vocabulary.json"
OLD_NAME = "picture"  # of the key and column "image" in files of earlier versions, which are read as well


def is_here(folder: Path) -> bool:
    return any((folder / name).is_file() for name in FILES)


def needed(folder: Path) -> dict[str, bool]:
    return {" or ".join(FILES): is_here(folder), "images": holds(folder)}


def read(folder: Path) -> Contents:
    here = [folder / name for name in FILES if (folder / name).is_file()]
    file, gatherer = here[0], Gatherer()
    if len(here) > 1:
        gatherer.notes.append(f"{here[0].name} is read; {here[1].name}, which lies beside it, is not")
    images = Files(folder, by_stem=False)
    for name, entry in merged(file, _rows(file), _checked, gatherer).items():
        gatherer.add(
            name,
            images.find(name),
            entry.captions,
            split=entry.split,
            class_id=entry.class_id,
            lines=entry.lines,
            box=entry.box,
            upright=entry.box is None and not entry.as_stored,
        )
    words = folder / VOCABULARY
    return gatherer.contents(folder, NAME, Vocabulary.load(words) if words.is_file() else None)


def _checked(row: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The image of a line, and what is said of it.

    Raises:
        ValueError: with a sentence, for one that is not allowed.
    """
    name = str(row.get("image") or row.get(OLD_NAME) or "")
    said = row.get("captions") or row.get("caption")
    said = [said] if isinstance(said, str) else said
    if (
        not name.strip()
        or not isinstance(said, list)
        or not said
        or not all(isinstance(text, str) and text.strip() for text in said)
    ):
        raise ValueError(f"an image and at least one caption are needed, got {short(row)}")
    if is_outside(name):
        raise ValueError(f"the image {name!r} is outside the folder")
    given = row.get("class_id")
    class_id = None if given is None or given == "" else whole_number(given)
    if class_id is None and given is not None and given != "":
        raise ValueError(f"class_id of {name} must be a whole number, got {given!r}")
    split = row.get("split")
    return name, {
        "captions": said,
        "class_id": class_id,
        "split": "" if split is None else str(split).strip(),
        "box": _given_box(row.get("box")),
        "as_stored": row.get("as_stored") in (True, "true", "True", "1", 1),
    }


def _given_box(given: Any) -> Box | None:
    if given is None or given == "":
        return None
    return box_of(given.split() if isinstance(given, str) else given)


def _rows(file: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Line numbers with their values, or with a sentence on what is wrong."""
    return _csv_rows(file) if file.suffix == ".csv" else json_lines(file)


def _csv_rows(file: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    columns, rows = csv_table(file)
    missing = {"caption"} - set(columns) | (set() if {"image", OLD_NAME} & set(columns) else {"image"})
    if missing:
        raise DataError(f"{file}: column {', '.join(sorted(missing))} is missing; has {columns}")
    yield from rows
