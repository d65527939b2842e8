"""One captioned image, and where its bytes lie: a file, a member of an archive, a cell of a parquet file."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from functools import cache, lru_cache
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Any

from dmgan_fast.data.remote import Remote, use
from dmgan_fast.data.texts import require_content
from dmgan_fast.errors import DataError
from dmgan_fast.files import require_regular


@dataclass(frozen=True)
class Record:
    """One image: where it is, what is said of it.

    ``file``: the image, or the archive or table that holds it. ``box``: x, y, width, height in pixels as
    stored. ``upright``: turn it as its EXIF data say.
    """

    key: str
    file: Path
    captions: tuple[str, ...]
    class_id: int
    box: tuple[float, float, float, float] | None = None
    member: str | None = None  # name inside ``file`` if that is an archive, column if it is a parquet file
    upright: bool = False
    span: tuple[int, int] | None = None  # offset and size of ``member`` in a tar archive
    row: int | None = None  # of a parquet file
    remote: Remote | None = None  # where ``file``, an archive, comes from


def where(record: Record) -> str:
    """The place of an image as people look it up."""
    if record.row is not None:
        return f"{record.file}:row {record.row}"
    place = record.remote.url if record.remote else record.file
    return f"{place}:{record.member}" if record.member else str(place)


def read_bytes(record: Record) -> bytes:
    """The image's file as it is.

    Raises:
        DataError: naming the file, if it is missing or can't be read.
    """
    try:
        require_regular(record.file)
        if record.span is not None:
            offset, size = record.span
            if record.remote is not None:
                return use(record.remote, lambda copy: _part(copy, offset, size))
            return _part(record.file, offset, size)
        if record.row is not None:
            return _cell(record.file, record.member or "", record.row)
        return _archive(record.file).read(record.member) if record.member else record.file.read_bytes()
    except (FileNotFoundError, KeyError):
        raise DataError(f"image not found: {where(record)}") from None
    except OSError as error:
        raise DataError(f"image can't be read: {where(record)}: {error.strerror}") from None
    except (ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"image can't be read: {where(record)}: {error}") from None


def _part(file: Path, offset: int, size: int) -> bytes:
    with file.open("rb") as stream:
        stream.seek(offset)
        content = stream.read(size)
    if len(content) < size:
        raise ValueError("the archive ends in the middle of it")
    return content


@cache
def _archive(path: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(BytesIO(path.read_bytes()))  # in memory: safe to share with forked workers


def _cell(file: Path, column: str, row: int) -> bytes:
    group, start = _row_group(file, row)
    with _ONE_AT_A_TIME:
        value = _cells(file, column, group)[row - start]
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        raise ValueError(f"column {column} holds no image in this row")
    return content


def _row_group(file: Path, row: int) -> tuple[int, int]:
    """Number and first row of the row group that holds ``row``."""
    metadata, start = parquet(file).metadata, 0
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        if row < start + rows:
            return group, start
        start += rows
    raise KeyError(row)


_ONE_AT_A_TIME = Lock()  # else each of several readers would load the same group


@lru_cache(maxsize=2)
def _cells(file: Path, column: str, group: int) -> list[Any]:
    opened = parquet(file)
    try:
        return list(opened.read_row_group(group, columns=[column]).column(0).to_pylist())
    except Exception as error:  # a broken file can raise almost anything
        raise ValueError(error) from None


def parquet(file: Path) -> Any:
    """An opened parquet file (``pyarrow.parquet.ParquetFile``).

    Raises:
        DataError: naming the file, if it can't be read or pyarrow is missing.
    """
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise DataError(f"{file}: reading parquet needs pyarrow: pip install 'dmgan-fast[sets]'") from None
    require_content(file)
    try:
        opened = ParquetFile(file)
        opened.schema_arrow.names  # noqa: B018  # which may be no text
    except Exception as error:  # a broken file can raise almost anything
        raise DataError(f"{file} can't be read: {error}") from None
    return opened
