"""Any folder of pictures with a captions file.

    DIR/captions.jsonl   {"picture": "a/b.jpg", "captions": ["...", "..."], "class_id": 3, "split": "train"} a line
    DIR/captions.csv     columns picture, caption (a row for each caption), and if you like class_id, split

Without a split, about one picture in ten is test, by the hash of its name. Without a class, each picture is its own.
Pictures are turned upright as their EXIF data say.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dmgan_fast.data.dataset import Record
from dmgan_fast.errors import DataError

FILES = ("captions.jsonl", "captions.csv")
TEST_SHARE = 10


def is_here(folder: Path) -> bool:
    """Whether ``folder`` has this layout."""
    return any((folder / name).is_file() for name in FILES)


def read_records(folder: Path, split: str) -> list[Record]:
    """Records of a split.

    Raises:
        DataError: naming the line, for a captions file that can't be understood.
    """
    file = next(folder / name for name in FILES if (folder / name).is_file())
    rows: dict[str, dict[str, Any]] = {}
    for number, row in _rows(file):
        name = str(row.get("picture") or "")
        said = row.get("captions") or [row.get("caption")]
        if not name or not isinstance(said, list) or not all(isinstance(text, str) and text.strip() for text in said):
            raise DataError(f"{file}:{number}: a picture and at least one caption are needed, got {row}")
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise DataError(f"{file}:{number}: the picture {name!r} is outside the folder")
        entry = rows.setdefault(name, {"captions": [], "class_id": row.get("class_id"), "split": row.get("split")})
        entry["captions"] += [text.strip() for text in said]
    records = []
    for index, (name, entry) in enumerate(rows.items()):
        if (entry["split"] or _split(name)) == split:
            try:
                class_id = index if entry["class_id"] in (None, "") else int(entry["class_id"])
            except (TypeError, ValueError):
                raise DataError(
                    f"{file}: class_id of {name} must be a whole number, got {entry['class_id']!r}"
                ) from None
            records.append(Record(name, folder / name, tuple(entry["captions"]), class_id, upright=True))
    return records


def _split(name: str) -> str:
    return "test" if int(hashlib.sha256(name.encode()).hexdigest(), 16) % TEST_SHARE == 0 else "train"


def _rows(file: Path) -> Iterable[tuple[int, dict[str, Any]]]:
    try:
        if file.suffix == ".csv":
            with file.open(newline="", encoding="utf-8-sig") as stream:
                reader = csv.DictReader(stream)
                missing = {"picture", "caption"} - set(reader.fieldnames or ())
                if missing:
                    raise DataError(f"{file}: column {', '.join(sorted(missing))} is missing; has {reader.fieldnames}")
                yield from enumerate(reader, start=2)
        else:
            for number, line in enumerate(file.read_text(encoding="utf-8-sig").split("\n"), start=1):
                if line.strip():
                    try:
                        row = json.loads(line)
                    except ValueError as error:
                        raise DataError(f"{file}:{number}: not JSON: {error}") from None
                    if not isinstance(row, dict):
                        raise DataError(f"{file}:{number}: expected an object, got {row!r}")
                    yield number, row
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{file} can't be read: {error}") from None
