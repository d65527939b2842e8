"""Arrays of numbers in MATLAB's files of level 5, as versions 5 to 7 write them; published data sets keep no others.

scipy's reader (1.17) crashes at an unknown type of numbers, so it can't be given files from elsewhere. The format is
MathWorks' "MAT-File Level 5 File Format".
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmgan_fast.data.texts import read_content
from dmgan_fast.errors import DataError

HEADER = 128  # bytes, of which the last two tell the order of bytes
ORDERS = {b"IM": "<", b"MI": ">"}
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
MATRIX, COMPRESSED = 14, 15
NUMERIC = range(6, 16)  # classes of matrices: the others are cells, structures, text and sparse ones
MOST = 1 << 26  # bytes of a variable that was compressed


def read_arrays(file: Path) -> dict[str, NDArray[Any]]:
    """Arrays by name, flat, in MATLAB's order (columns first); variables that are no arrays of numbers are left out.

    Raises:
        DataError: naming the file, if it can't be read.
    """
    content = read_content(file)
    order = ORDERS.get(content[HEADER - 2 : HEADER])
    if order is None:
        raise DataError(f"{file} can't be read: not a file of MATLAB's versions 5 to 7 (save it with -v7)")
    try:
        return dict(_variables(content[HEADER:], order))
    except (ValueError, struct.error, zlib.error) as error:
        raise DataError(f"{file} can't be read: damaged: {error}") from None


def _variables(content: bytes, order: str, packed: bool = False) -> Iterator[tuple[str, NDArray[Any]]]:
    for kind, data in _elements(content, order):
        if kind == COMPRESSED and packed:
            raise ValueError("compressed twice")
        if kind == COMPRESSED:
            yield from _variables(_unpacked(data), order, packed=True)
        elif kind == MATRIX and len(parts := list(islice(_elements(data, order), 4))) == 4:
            (_, flags), (_, shape), (_, name), (number, values) = parts
            if struct.unpack_from(f"{order}I", flags)[0] & 0xFF not in NUMERIC:
                continue
            if number not in NUMBERS:
                raise ValueError(f"an array of the unknown type {number}")
            array = np.frombuffer(values, order + NUMBERS[number])
            if prod(np.frombuffer(shape, f"{order}i4").tolist()) != len(array):
                raise ValueError("an array that is not as large as it says")
            yield name.decode("latin-1"), array


def _elements(content: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Types and contents. Up to four bytes may lie in the tag itself; others end at a multiple of eight."""
    at = 0
    while at < len(content):
        kind, size = struct.unpack_from(f"{order}II", content, at)
        begin, after = at + 8, size if kind == COMPRESSED else -(-size // 8) * 8
        if kind >> 16:
            kind, size, begin, after = kind & 0xFFFF, kind >> 16, at + 4, 0
        if begin + size > (len(content) if after else at + 8):
            raise ValueError("it ends too early")
        yield kind, content[begin : begin + size]
        at += 8 + after


def _unpacked(data: bytes) -> bytes:
    stream = zlib.decompressobj()
    content = stream.decompress(data, MOST)
    if not stream.eof:
        raise ValueError(f"a variable of more than {MOST >> 20} MiB, or one that was cut short")
    return content
