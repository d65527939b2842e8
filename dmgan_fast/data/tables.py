"""Rows of JSONL, CSV and parquet files, with their numbers."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dmgan_fast.data.record import parquet
from dmgan_fast.data.texts import read_text
from dmgan_fast.errors import DataError
from dmgan_fast.files import parse_json


def read_json(file: Path) -> Any:
    """What a JSON file holds.

    Raises:
        DataError: naming the file, if it can't be read.
    """
    try:
        return parse_json(read_text(file))
    except ValueError as error:
        raise DataError(f"{file}: not JSON: {error}") from None


def json_lines(file: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Line numbers of a JSONL file with their objects, or with a sentence on what is wrong.

    Raises:
        DataError: if the file can't be read.
    """
    text = read_text(file)
    if text.lstrip().startswith("[") and isinstance(rows := _array(text), list):
        yield from ((n, row if isinstance(row, dict) else f"expected an object, got {short(row)}") for n, row in rows)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            yield number, f"not JSON: {error}"
            continue
        yield number, row if isinstance(row, dict) else f"expected an object, got {short(row)}"


def _array(text: str) -> list[tuple[int, Any]] | None:
    """Numbers from 1 and elements, if the whole text is one JSON list, as some tools write it."""
    try:
        rows = parse_json(text)
    except ValueError:
        return None
    return list(enumerate(rows, start=1))


def csv_table(file: Path) -> tuple[list[str], list[tuple[int, dict[str, Any]]]]:
    """Columns, and line numbers with values, of a table divided by commas, semicolons or tabs.

    Raises:
        DataError: naming the file, if it can't be read.
    """
    text = read_text(file)
    header = text.split("\n", 1)[0]
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count))
        columns = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = columns
        return columns, [(reader.line_num, dict(row)) for row in reader]
    except csv.Error as error:
        raise DataError(f"{file} can't be read: {error}") from None


def parquet_table(file: Path, but: tuple[str, ...] = ()) -> list[tuple[int, dict[str, Any]]]:
    """Row numbers from 0 with values, columns of ``but`` left out.

    Raises:
        DataError: naming the file, if it can't be read.
    """
    opened = parquet(file)
    try:
        names = [name for name in opened.schema_arrow.names if name not in but]
        return list(enumerate(opened.read(columns=names).to_pylist()))
    except Exception as error:  # a broken file can raise almost anything
        raise DataError(f"{file} can't be read: {error}") from None


def short(row: Any) -> str:
    """A value as a message shows it."""
    text = repr(row)
    return text if len(text) <= 200 else text[:200] + "..."
