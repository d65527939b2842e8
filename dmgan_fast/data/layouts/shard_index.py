"""The index of a set in shards: what is said of every image and where it lies, so that no archive is read on opening.

    index.jsonl    a line about the set, then one for each image

``dmgan-fast shard`` writes it last: a set that has it is complete.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from dmgan_fast.errors import DataError
from dmgan_fast.files import FileDigest, parse_json

INDEX = "index.jsonl"
FORMAT = 1
WINDOW = 16  # shards that are mixed at a time


class Sample(NamedTuple):
    """An image: its archive, its name there, where it lies in the archive, and what is said of it."""

    shard: str
    key: str
    image: str
    offset: int
    size: int
    values: Mapping[str, Any]


class Index(NamedTuple):
    """``shards`` by name; ``window``: how many are mixed at a time."""

    shards: Mapping[str, FileDigest]
    window: int
    samples: tuple[Sample, ...]


def write_index(index: Index) -> str:
    """As text."""
    shards = {name: shard._asdict() for name, shard in index.shards.items()}
    head = {"format": FORMAT, "window": index.window, "samples": len(index.samples), "shards": shards}
    lines = (
        {**sample.values, "shard": sample.shard, "key": sample.key, "image": sample.image}
        | {"offset": sample.offset, "size": sample.size}
        for sample in index.samples
    )
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in (head, *lines))


def read_index(content: bytes, where: str) -> Index:
    """What ``write_index`` wrote.

    Raises:
        DataError: naming the file and the line, if it is damaged or cut off.
    """
    lines = content.decode("utf-8", "replace").split("\n")
    head = _line(lines[0], f"{where}:1")
    try:
        if head.get("format") != FORMAT:
            raise DataError(f"{where}: format {head.get('format')!r} is not known, only {FORMAT}; write it anew")
        shards = {
            _inside(name, where): FileDigest(_count(shard["bytes"]), str(shard["sha256"]))
            for name, shard in head["shards"].items()
        }
        window, count = max(1, _count(head["window"])), _count(head["samples"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{where}:1: not the head of an index: {error}") from None
    samples = tuple(_samples(lines[1:], shards, where))
    if len(samples) != count:
        raise DataError(f"{where} is cut off: it has {len(samples):,} of {count:,} images; write it anew")
    return Index(shards, window, samples)


def _samples(lines: Iterable[str], shards: Mapping[str, FileDigest], where: str) -> Iterable[Sample]:
    for number, line in enumerate(lines, start=2):
        if not line.strip():
            continue
        values = _line(line, f"{where}:{number}")
        try:
            shard, key, image = (str(values.pop(name)) for name in ("shard", "key", "image"))
            offset, size = (_count(values.pop(name)) for name in ("offset", "size"))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{where}:{number}: not a line of an index: {error}") from None
        if shard not in shards:
            raise DataError(f"{where}:{number}: {shard!r} is none of its archives")
        yield Sample(shard, key, image, offset, size, values)


def _line(text: str, where: str) -> dict[str, Any]:
    try:
        values = parse_json(text)
    except ValueError as error:
        raise DataError(f"{where}: not JSON: {error}") from None
    if not isinstance(values, dict):
        raise DataError(f"{where}: not a line of an index")
    return values


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 62:
        raise ValueError(f"expected a number of bytes or images, got {value!r}")
    return value


def _inside(name: str, where: str) -> str:
    """``name`` if it stays below the set."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
        raise DataError(f"{where}: the archive {name!r} does not lie below the set")
    return name
