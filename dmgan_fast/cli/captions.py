"""Captions to generate images from: from the command line, a file, or standard input."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dmgan_fast.errors import InputError
from dmgan_fast.files import parse_json

STANDARD_INPUT = "-"
KEYS = ("caption", "text", "captions")


class Given(NamedTuple):
    """A caption, and where it stands if that is a file."""

    text: str
    where: str | None = None


def gather(arguments: Sequence[str], file: Path | None) -> list[Given]:
    """Captions in the order given; ``-`` stands for those on standard input.

    Raises:
        InputError: naming file and line, for one that can't be read or understood; for no captions at all.
    """
    found: list[Given] = []
    for text in arguments:
        found += _read(STANDARD_INPUT) if text == STANDARD_INPUT else [Given(text)]
    if file is not None:
        found += _read(str(file))
    if not found:
        where = f" in {file}" if file is not None else ""
        raise InputError(
            f"Missing argument 'CAPTION...': no captions{where}; give them, --captions FILE (lines or JSONL), or - for "
            "standard input"
        )
    return found


def _read(name: str) -> list[Given]:
    """Lines, JSON lines (``{"caption": "..."}``, ``{"captions": [...]}`` or a string each), or one JSON list."""
    standard = name == STANDARD_INPUT
    where = "standard input" if standard else name
    try:
        content = sys.stdin.buffer.read() if standard else Path(name).read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"captions: {where} can't be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"captions: {where} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    if "\0" in text:
        raise InputError(f"captions: {where} is not text; give a file with a caption on each line, or JSONL")
    if Path(name).suffix.lower() == ".json":
        return _json_list(text, where)
    lines = [(n, line.strip()) for n, line in enumerate(re.split(r"\r\n|\r|\n", text), start=1) if line.strip()]
    as_json = Path(name).suffix.lower() in (".jsonl", ".ndjson") or (bool(lines) and _is_row(lines[0][1]))
    if not as_json:
        return [Given(line, f"{where}:{n}") for n, line in lines]
    return [given for n, line in lines for given in _rows(_parse(line, f"{where}:{n}"), f"{where}:{n}")]


def _json_list(text: str, where: str) -> list[Given]:
    content = _parse(text, where)
    rows = content if isinstance(content, list) else [content]
    return [given for n, row in enumerate(rows, start=1) for given in _rows(row, f"{where}, entry {n}")]


def _is_row(line: str) -> bool:
    try:
        row = parse_json(line)
    except ValueError:
        return False
    return isinstance(row, dict) and any(key in row for key in KEYS)


def _parse(text: str, where: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise InputError(f"captions: {where} is not JSON: {error}") from None


def _rows(row: Any, where: str) -> Iterator[Given]:
    value = row
    if isinstance(row, dict):
        value = next((row[key] for key in KEYS if key in row), None)
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise InputError(
            f'captions: {where} must be a caption, {{"caption": "..."}} or {{"captions": ["..."]}}, got {row!r}'
        )
    yield from (Given(text.strip(), where) for text in texts)
