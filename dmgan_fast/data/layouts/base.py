"""What every layout offers, and what several of them share."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from dmgan_fast.data.names import IMAGE_SUFFIXES, TEXT_SUFFIXES, Files, files_below, without_suffix
from dmgan_fast.data.rows import BROKEN, Contents, Gatherer
from dmgan_fast.data.tables import short
from dmgan_fast.data.texts import read_captions, read_lines
from dmgan_fast.errors import DataError

TEXT_FOLDERS = ("text", "text_c10", "captions")
Box = tuple[float, float, float, float]
FARTHEST = 1e9  # pixels; what is beyond is no measure of an image
QUICK = 20_000  # directory entries that a quick look goes through
CLASS_LISTS = {"train": "trainvalclasses.txt", "test": "testclasses.txt"}


class Layout(Protocol):
    """A module that reads one layout. ``NAME``: for people; ``SIGN``: the file that it is known by."""

    NAME: str
    SIGN: str

    def is_here(self, folder: Path) -> bool:
        """Whether there is enough of it to read, if only to say what is broken."""

    def needed(self, folder: Path) -> dict[str, bool]:
        """What it consists of, and whether that is there."""

    def read(self, folder: Path) -> Contents:
        """Every row, and by name what became none.

        Raises:
            DataError: for files without which no row can be read.
        """


def box_of(values: Any) -> Box:
    """Four numbers.

    Raises:
        ValueError: with a sentence, for anything else.
    """
    try:
        x, y, width, height = (float(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"box must be x, y, width, height, got {short(values)}") from None
    if not all(math.isfinite(value) and abs(value) < FARTHEST for value in (x, y, width, height)):
        raise ValueError(f"box must be x, y, width, height in pixels, got {short(values)}")
    return x, y, width, height


class Entry:
    """What the rows of one image say together."""

    def __init__(self) -> None:
        self.captions: list[str] = []
        self.split: str = ""
        self.class_id: Any = None
        self.box: Box | None = None
        self.as_stored = False
        self.lines = 0

    def take(
        self,
        captions: Iterable[str],
        split: str,
        class_id: Any,
        box: Box | None = None,
        as_stored: bool = False,
    ) -> None:
        """Add a row.

        Raises:
            ValueError: with a sentence, if it contradicts an earlier one.
        """
        for name, new, old in (("split", split, self.split), ("class_id", class_id, self.class_id)):
            if new not in (None, "", old) and old not in (None, ""):
                raise ValueError(f"{name} is {new!r} here and {old!r} in an earlier row of the same image")
        self.split = self.split or split
        self.class_id = class_id if self.class_id in (None, "") else self.class_id
        self.captions += captions
        self.box = self.box or box
        self.as_stored = self.as_stored or as_stored
        self.lines += 1


def merged(
    file: Path,
    rows: Iterable[tuple[int, dict[str, Any] | str]],
    checked: Callable[[dict[str, Any]], tuple[str, dict[str, Any]]],
    gatherer: Gatherer,
    place: str = "",
) -> dict[str, Entry]:
    """What the rows of ``file`` say of each image; those that can't be understood are lost by name.

    Args:
        rows: line numbers with their values, or with a sentence on what is wrong.
        checked: the image of a row, and what ``Entry.take`` takes of it; ``ValueError`` with a sentence.
        place: the file's name in messages.
    """
    entries: dict[str, Entry] = {}
    for number, row in rows:
        try:
            if isinstance(row, str):
                raise ValueError(row)
            name, said = checked(row)
            entry = entries.get(name) or Entry()
            entry.take(**said)
            entries[name] = entry
        except ValueError as error:
            gatherer.lose(f"{place or file.name}:{number}", BROKEN, f"{file}:{number}: {error}")
    return entries


def holds(folder: Path) -> bool:
    """Whether an image is in ``folder`` or below, as far as a quick look shows."""
    return folder.is_dir() and next(files_below(folder, IMAGE_SUFFIXES, most=QUICK), None) is not None


def text_beside(folder: Path, suffixes: tuple[str, ...] = TEXT_SUFFIXES) -> bool:
    """Whether an image has a text of its own name beside it, as far as a quick look shows."""
    texts = {without_suffix(name, suffixes).casefold() for name in files_below(folder, suffixes, most=QUICK)}
    return any(without_suffix(name).casefold() in texts for name in files_below(folder, IMAGE_SUFFIXES, most=QUICK))


def text_folder(*roots: Path) -> Path | None:
    """The first folder of captions in one of ``roots``."""
    return next((root / name for root in roots for name in TEXT_FOLDERS if (root / name).is_dir()), None)


class Captions:
    """Captions in a text file for each key."""

    def __init__(self, folder: Path, *, suffixes: tuple[str, ...] = TEXT_SUFFIXES, anywhere: bool = False) -> None:
        self.files = Files(folder, suffixes, anywhere=anywhere)

    def of(self, key: str) -> tuple[tuple[str, ...], str]:
        """Captions of ``key``, or none and why not."""
        file, why = self.files.find(f"{key}{self.files.suffixes[0]}")
        if file is None:
            return (), f"{key}: captions can't be read: {why}"
        try:
            return read_captions(file), ""
        except DataError as error:
            return (), f"{key}: captions can't be read: {error}"


def class_splits(*roots: Path) -> dict[str, str]:
    """Class → split, from Reed's lists of classes; empty if they are not there."""
    root = next((root for root in roots if all((root / name).is_file() for name in CLASS_LISTS.values())), None)
    if root is None:
        return {}
    return {
        line.strip(): split for split, name in CLASS_LISTS.items() for line in read_lines(root / name) if line.strip()
    }


def table(file: Path, columns: int) -> list[list[str]]:
    """Rows of a text file with ``columns`` values, the last of which may hold spaces.

    Raises:
        DataError: naming the line that has fewer.
    """
    rows = []
    for number, line in enumerate(read_lines(file), start=1):
        if line.strip():
            row = line.strip().split(maxsplit=columns - 1)
            if len(row) < columns:
                raise DataError(f"{file}:{number}: expected {columns} values, got {line.strip()!r}")
            rows.append(row)
    return rows


def entries(folder: Path, count: int = 8) -> str:
    """What a folder holds, for a message."""
    try:
        names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in os.scandir(folder))
    except OSError as error:
        return f"can't be listed: {error}"
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "") or "nothing"
