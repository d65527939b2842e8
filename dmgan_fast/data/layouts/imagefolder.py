"""Hugging Face's imagefolder, and the parquet files of its hub.

    DIR/metadata.jsonl            {"file_name": "a.png", "text": "..."} a line; or metadata.csv, metadata.parquet
    DIR/a.png
or, with the parts in folders of their own,
    DIR/train/metadata.jsonl, DIR/train/a.png, DIR/test/metadata.jsonl, ...
or, as the hub stores it, images inside the files,
    DIR/data/train-00000-of-00001.parquet     columns image and text

Captions are in the column text, caption(s), prompt, sentence(s) or description, or in the only column of text there is:
one, or a list. Classes are in class_id, label or class; a column split names the part, else the folder or file does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dmgan_fast.data.layouts.base import holds, merged
from dmgan_fast.data.names import Files, is_outside
from dmgan_fast.data.record import parquet
from dmgan_fast.data.rows import BROKEN, Contents, Gatherer
from dmgan_fast.data.splits import role_of
from dmgan_fast.data.tables import csv_table, json_lines, parquet_table, short
from dmgan_fast.errors import DataError

NAME = "Hugging Face's imagefolder"
SIGN = "metadata.jsonl"
FILES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
CAPTIONS = ("text", "caption", "captions", "prompt", "sentence", "sentences", "description")
CLASSES = ("class_id", "label", "class")
IMAGE = "image"


def is_here(folder: Path) -> bool:
    return bool(_metadata(folder) or _image_files(folder))


def needed(folder: Path) -> dict[str, bool]:
    return {"metadata.jsonl, .csv or .parquet": is_here(folder), "images": holds(folder)}


def read(folder: Path) -> Contents:
    gatherer = Gatherer()
    for file in _metadata(folder):
        _read_metadata(file, folder, gatherer)
    if not _metadata(folder):
        for file in _image_files(folder):
            _read_images_inside(file, gatherer)
        gatherer.notes.append(
            "the images lie inside parquet files, which are slow to read in random order: "
            "`dmgan-fast convert` writes them as files"
        )
    gatherer.hold_out()
    return gatherer.contents(folder, NAME)


def _metadata(folder: Path) -> list[Path]:
    """The metadata file, or that of each part."""
    own = _first(folder)
    if own:
        return [own]
    parts = (child for child in _folders(folder) if role_of(child.name))
    return [file for part in parts if (file := _first(part))]


def _first(folder: Path) -> Path | None:
    return next((folder / name for name in FILES if (folder / name).is_file()), None)


def _folders(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))


def _image_files(folder: Path) -> list[Path]:
    """Parquet files in ``folder`` or ``folder/data``, by name."""
    found = (*folder.glob("*.parquet"), *folder.glob("data/*.parquet"))
    return sorted(file for file in found if file.is_file() and file.name not in FILES)


def _read_metadata(file: Path, folder: Path, gatherer: Gatherer) -> None:
    part = file.parent.name if file.parent != folder else ""
    images, place = Files(file.parent, by_stem=False), f"{part}/{file.name}" if part else file.name
    column = ""

    def checked(row: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        nonlocal column
        values = {str(name).strip().lower(): value for name, value in row.items()}
        column = column or _caption_column(file, values)
        name, said = _checked(values, column)
        split = values.get("split")
        split = part or _folder_split(name) if split is None else str(split)
        return name, {"captions": said, "split": split, "class_id": class_of(values)}

    for name, entry in merged(file, _rows(file), checked, gatherer, place).items():
        gatherer.add(
            f"{part}/{name}" if part else name,
            images.find(name),
            entry.captions,
            split=entry.split,
            class_id=entry.class_id,
            lines=entry.lines,
            upright=True,
        )


def _checked(row: dict[str, Any], column: str) -> tuple[str, list[str]]:
    """The image of a row and its captions.

    Raises:
        ValueError: with a sentence, if one of them is not there.
    """
    name, said = row.get("file_name"), captions_of(row.get(column))
    if not isinstance(name, str) or not name.strip() or said is None:
        raise ValueError(f"a file_name and text in {column} are needed, got {short(row)}")
    if is_outside(name):
        raise ValueError(f"the image {name!r} is outside the folder")
    return name, said


def _folder_split(name: str) -> str:
    """The part, if the first folder of ``name`` is named after one."""
    first, _, rest = name.replace("\\", "/").removeprefix("./").partition("/")
    return first if rest and role_of(first) else ""


def _rows(file: Path) -> Iterable[tuple[int, dict[str, Any] | str]]:
    if file.suffix == ".jsonl":
        return json_lines(file)
    return csv_table(file)[1] if file.suffix == ".csv" else parquet_table(file)


def _caption_column(file: Path, row: dict[str, Any]) -> str:
    """The column of captions.

    Raises:
        DataError: naming the columns, if none is.
    """
    known = next((name for name in CAPTIONS if name in row), None)
    if known:
        return known
    texts = [
        name
        for name, value in row.items()
        if captions_of(value) is not None and name not in ("file_name", "split", *CLASSES)
    ]
    if len(texts) != 1:
        columns = ", ".join(map(str, row)) or "none"
        raise DataError(f"{file}: no column of captions; one of {', '.join(CAPTIONS)} is needed, has {columns}")
    return texts[0]


def captions_of(value: Any) -> list[str] | None:
    """A caption or a list of them; None for anything else."""
    said = [value] if isinstance(value, str) else value
    if not isinstance(said, list) or not said or not all(isinstance(text, str) for text in said):
        return None
    return said


def class_of(row: dict[str, Any]) -> Any:
    """A number or a name; None if there is none."""
    return next((row[name] for name in CLASSES if isinstance(row.get(name), (int, float, str))), None)


def _read_images_inside(file: Path, gatherer: Gatherer) -> None:
    if IMAGE not in parquet(file).schema_arrow.names:
        raise DataError(f"{file}: column {IMAGE} is missing; has {', '.join(parquet(file).schema_arrow.names)}")
    part = re.split(r"[-.]", file.name)[0]
    split, column = part if role_of(part) else "", None
    for number, row in parquet_table(file, but=(IMAGE,)):
        column = column or _caption_column(file, row)
        said = captions_of(row.get(column))
        key = f"{file.stem}/{number:07d}"
        fault = None if said else (BROKEN, f"{file}:row {number}: text is needed in {column}, got {short(row)}")
        gatherer.add(
            key,
            (file, ""),
            said or (),
            split=row.get("split") or split,
            class_id=class_of(row),
            fault=fault,
            upright=True,
            member=IMAGE,
            row=number,
        )
