"""Sizes of memory as people write and read them."""

from __future__ import annotations

import re

from pydantic import ByteSize, TypeAdapter

from dmgan_fast.errors import InputError

# ``ByteSize`` looks at the beginning of a text alone, and takes gigabits for what is written 24Gb.
SPELLING = re.compile(r"\s*\d+(\.\d+)?\s*(B|[KMGT]i?B)?\s*")


def parse_size(text: str, name: str = "memory") -> int:
    """Bytes of ``"24GiB"``, ``"900 MB"`` or ``"1073741824"``.

    Raises:
        InputError: if it is none of these, or less than a byte.
    """
    size = int(TypeAdapter(ByteSize).validate_python(text)) if SPELLING.fullmatch(text) else 0
    if size < 1:
        raise InputError(f"{name} must be written as 24GiB, 900MB or a number of bytes, got {text!r}")
    return size


def show_size(size: float) -> str:
    """``"1.50 GiB"`` or ``"131 MiB"``."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{max(1, round(size / 2**20))} MiB"
