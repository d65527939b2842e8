"""Bring a data set of any layout over to a folder with captions.jsonl."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from dmgan_fast.data.check import Report
from dmgan_fast.data.layouts.captions_file import FILES, VOCABULARY
from dmgan_fast.data.names import IMAGE_SUFFIXES
from dmgan_fast.data.opening import require_few
from dmgan_fast.data.record import Record, read_bytes
from dmgan_fast.data.rows import BAD, NO_KNOWN_WORD, OTHER_SPLIT, LeftOut, Row
from dmgan_fast.data.texts import printable
from dmgan_fast.errors import DataError, InputError
from dmgan_fast.files import share

IMAGES = "images"
_SUFFIXES = {
    "JPEG": ".jpg",
    "MPO": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "GIF": ".gif",
    "BMP": ".bmp",
    "TIFF": ".tif",
}


def convert(
    report: Report, out: str | os.PathLike[str], *, skip_bad: int = 0, tick: Callable[[], object] = lambda: None
) -> tuple[int, list[LeftOut]]:
    """Write the images and captions of a set that was looked at; ``out`` appears once all is written.

    Files are copied as they are, those of all splits. What else is read from the set (classes, boxes, whether images
    are turned upright, its own vocabulary) is written beside.

    Args:
        report: of ``check_data``.
        out: a folder that does not exist or is empty.
        skip_bad: continue without at most so many images that can't be used.
        tick: called after each image.

    Returns:
        how many images were written, and what was not.

    Raises:
        InputError: if ``out`` holds something.
        DataError: if more can't be used than ``skip_bad`` allows, with all of it by name; ``out`` is then as it was.
    """
    target, facts = Path(out), report.facts
    require_empty(target)
    rows, left_out = usable(report, skip_bad)
    with whole_or_not(target) as folder:
        names, lines = _Names(), []
        for row, role in rows:
            content = read_bytes(row.record)
            name = names.new(row.record, content)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
            lines.append(json.dumps({"image": name, **as_values(row, role)}, ensure_ascii=False))
            tick()
        text = printable("".join(f"{line}\n" for line in lines))
        (folder / FILES[0]).write_text(text, encoding="utf-8", newline="\n")
        if facts.contents.vocabulary is not None:
            facts.contents.vocabulary.save(folder / VOCABULARY)
    return len(rows), left_out


def require_empty(target: Path) -> None:
    """Raise ``InputError`` if something is there already."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} is there already and not empty; give another --out")


def usable(report: Report, skip_bad: int) -> tuple[list[tuple[Row, str | None]], list[LeftOut]]:
    """Rows of all splits that can be used, each with what it is for, and what is left out.

    Raises:
        DataError: if more can't be used than ``skip_bad`` allows, with all of it by name.
    """
    facts = report.facts
    # Captions without a known word are copied: which words are known is the encoders' matter.
    left_out = [item for item in facts.left_out if item.kind not in (NO_KNOWN_WORD, OTHER_SPLIT)]
    require_few(facts.contents, [item for item in left_out if item.kind in BAD], skip_bad)
    rows = [
        (row, role)
        for row, role in zip(facts.contents.rows, facts.contents.roles, strict=True)
        if not (fault := facts.faults.get(id(row), row.fault)) or fault.kind == NO_KNOWN_WORD
    ]
    return rows, left_out


def as_values(row: Row, role: str | None) -> dict[str, Any]:
    """What is said of an image, as a line of ``captions.jsonl`` has it."""
    record = row.record
    line: dict[str, Any] = {"captions": list(record.captions), "split": role or row.split}
    if not row.own_class:
        line["class_id"] = record.class_id
    if record.box is not None:
        line["box"] = list(record.box)
    elif not record.upright:
        line["as_stored"] = True
    return line


class _Names:
    """Names of files: those of the records, made safe, each once whatever the case."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def new(self, record: Record, content: bytes) -> str:
        parts = [_safe(part) for part in re.split(r"[/\\]", record.key)]
        stem, suffix = os.path.splitext("/".join(part for part in parts if part) or "image")
        if suffix.lower() not in IMAGE_SUFFIXES:
            stem, suffix = stem + suffix, suffix_of(record, content)
        name, number = f"{IMAGES}/{stem}{suffix}", 1
        while name.casefold() in self._taken:
            number += 1
            name = f"{IMAGES}/{stem}-{number}{suffix}"
        self._taken.add(name.casefold())
        return name


def _safe(part: str) -> str:
    """``part`` as a name that every file system takes."""
    clean = re.sub(r'[\x00-\x1f<>:"|?*\\]', "_", part).strip()
    clean = clean.strip(".") if not clean.strip(".") or clean.startswith("..") else clean
    return clean.encode("utf-8", "replace")[:150].decode("utf-8", "ignore")


def suffix_of(record: Record, content: bytes) -> str:
    """Of an image's name, or as its content says.

    Raises:
        DataError: if neither says what it is.
    """
    own = os.path.splitext(record.member or record.file.name)[1].lower()
    if own in IMAGE_SUFFIXES:
        return own
    try:
        with Image.open(BytesIO(content)) as opened:
            return _SUFFIXES.get(opened.format or "", ".png")
    except Exception:  # a broken image can raise almost anything
        raise DataError(f"image can't be read: {record.key}: neither its name nor its content say what it is") from None


@contextmanager
def whole_or_not(target: Path) -> Iterator[Path]:
    """A folder beside ``target`` that becomes it at the end, or vanishes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield folder
        if target.exists():
            target.rmdir()
        share(folder, 0o777)
        folder.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
