"""A look at the images themselves: can they be read, how large are they, which are the same."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from dmgan_fast.data.dataset import crop_area, read_image
from dmgan_fast.data.record import Record, read_bytes, where
from dmgan_fast.errors import DataError
from dmgan_fast.files import require_regular

DECODED = 64 << 20  # bytes of images that are decoded without being asked: a second or two
SAMPLE = 10_000  # images of a larger set of which the headers and ends are read
EDGE = 16 << 10  # bytes at either end that tell images of one size apart
READERS = min(16, 4 * (os.cpu_count() or 1))
ARCHIVES = 2  # that are fetched from elsewhere to look at images in them
TRAILER = 64  # bytes in which the end marker of a format is looked for


@dataclass(frozen=True)
class ImageLook:
    """``side``: shorter side of what is trained on, in pixels, 0 if unreadable; ``fault``: why it can't be read."""

    side: int
    digest: str
    fault: str = ""


@dataclass(frozen=True)
class Looks:
    """``at``: by position in the records. ``decoded``: whole images were read, else headers and ends."""

    at: dict[int, ImageLook]
    decoded: bool

    @property
    def how(self) -> str:
        return "decoded" if self.decoded else "headers and ends read"


def look(records: Sequence[Record], *, decode: bool = False, tick: Callable[[], object] = lambda: None) -> Looks:
    """Look at images.

    All are decoded if asked for or if they are few; else the headers and ends of at most ``SAMPLE``, evenly spread, are
    read, and what looks cut off is decoded.

    Args:
        records: what to look at.
        decode: decode all, however many.
        tick: called after each image, from several threads.
    """
    decode = decode or _bytes(records) <= DECODED
    chosen = range(len(records)) if decode else _near(records) or _spread(len(records))

    def one(index: int) -> ImageLook:
        found = _whole(records[index]) if decode else _edges(records[index])
        tick()
        return found

    with warnings.catch_warnings(), ThreadPoolExecutor(READERS) as readers:
        warnings.simplefilter("ignore")  # of odd metadata and large images; what can't be used is named as a fault
        return Looks(dict(zip(chosen, readers.map(one, chosen), strict=True)), decode)


def _bytes(records: Sequence[Record]) -> int:
    """How much there is to decode, counted no further than needed."""
    total = 0
    for record in records:
        total += record.span[1] if record.span else _size(record)
        if total > DECODED:
            break
    return total


def _size(record: Record) -> int:
    if record.member:
        return 1 << 15  # inside an archive: about so much
    try:
        return os.path.getsize(record.file)
    except (OSError, ValueError):
        return 0


def _spread(count: int) -> list[int]:
    taken = min(count, SAMPLE)
    return [number * count // taken for number in range(taken)]


def _near(records: Sequence[Record]) -> list[int]:
    """Images of the first archives, if those have to be fetched: as many as are decoded of a small set."""
    if not any(record.remote for record in records):
        return []
    chosen: list[int] = []
    total, archives = 0, set[Path]()
    for number, record in enumerate(records):
        total += record.span[1] if record.span else 0
        archives.add(record.file)
        if chosen and (total > DECODED or len(archives) > ARCHIVES):
            break
        chosen.append(number)
    return chosen


def _whole(record: Record) -> ImageLook:
    try:
        content = read_bytes(record)
        size = read_image(record).size
    except DataError as error:
        return ImageLook(0, "", str(error))
    return ImageLook(_side(record, size), hashlib.blake2b(content, digest_size=16).hexdigest())


def _side(record: Record, size: tuple[int, int]) -> int:
    left, top, right, bottom = crop_area(size, record.box) or (0, 0, *size)
    return min(right - left, bottom - top)


def _edges(record: Record) -> ImageLook:
    """From the header and both ends; decoded if they do not look whole."""
    if record.member:
        return _whole(record)
    try:
        require_regular(record.file)
        with record.file.open("rb") as stream:
            size, whole = _header(stream)
            length = stream.seek(0, os.SEEK_END)
            digest = hashlib.blake2b(str(length).encode(), digest_size=16)
            for start in (0, max(0, length - EDGE)):
                stream.seek(start)
                digest.update(stream.read(EDGE))
    except (OSError, ValueError):
        return ImageLook(0, "", f"image can't be read: {where(record)}")
    return ImageLook(_side(record, size), digest.hexdigest()) if whole else _whole(record)


def _header(stream: BinaryIO) -> tuple[tuple[int, int], bool]:
    """Width and height, and whether the file ends as its format does."""
    try:
        with Image.open(stream) as opened:
            size, kind = opened.size, opened.format
    except Exception:  # a broken image can raise almost anything; decoding says what is wrong
        return (0, 0), False
    length = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, length - TRAILER))
    return size, _ends(kind or "", stream.read(TRAILER), length, stream)


def _ends(kind: str, tail: bytes, length: int, stream: BinaryIO) -> bool:
    if kind in ("JPEG", "MPO"):
        return b"\xff\xd9" in tail
    if kind == "PNG":
        return b"IEND" in tail
    if kind == "WEBP":
        stream.seek(4)
        return int.from_bytes(stream.read(4), "little") + 8 <= length
    return kind == "GIF" and tail.rstrip(b"\0").endswith(b";")
