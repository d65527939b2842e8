"""Files that are nearly what they should be: valid ones, edited, and things that lie in place of them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

PLACES = 1000  # an edit's place is a share of the file, in so many parts
LONGEST = 1 << 22  # bytes of an edited file
# Things that may lie where a file should be. What someone names on the command line may well be a pipe.
INSTEAD = ("folder", "missing", "fifo", "link to nothing", "link to itself", "link outside", "link to endless zeros")
PIPES = ("fifo", "link to endless zeros")
TOKENS = (
    b"\0", b"\xff" * 8, b"\xef\xbb\xbf", b"\xff\xfe", b"\r\n", b"\n" * 50, b"[" * 3000, b"{" * 3000, b"]", b"}",
    b"\"", b"'", b",",
    b"-1", b"1e999", b"NaN", b"-Infinity", b"9" * 5000, b"null", b"true", b"[]", b"{}", b"\\ud800", b"\xc3\x28",
    b"../", b"../../etc/passwd",
    b"/etc/passwd", b"C:\\", b"a" * 70_000, b"%s%n", b"0x", b"2001-99-99",
    b"!!python/object/apply:os.system [touch pwned]", b"&a [*a, *a]",
    b"<!doctype html><html>", b"version https://git-lfs.github.com/spec/v1", b"cos\nsystem\n(S'touch pwned'\ntR.",
    b"\x80\x04\x95", b"PK\x03\x04",
    b"\x00\x00\x00\x00", b"\xff\xff\xff\x7f", b"\x80\x80\x80\x80\x10", b";", b"\t", b"\x1a", b"=", b": ", b"- ",
)  # fmt: skip
Edit = tuple[str, int, int]


@st.composite
def edits(draw: Any, most: int = 3) -> list[Edit]:
    """Edits of a file: kind, place, and how much."""
    kinds = ("flip", "flip", "cut", "drop", "zero", "repeat", "token", "token", "junk", "swap")
    places = st.integers(0, PLACES)
    return draw(st.lists(st.tuples(st.sampled_from(kinds), places, st.integers(0, 255)), max_size=most))


def edited(content: bytes, changes: Sequence[Edit]) -> bytes:
    """``content`` with the changes."""
    for kind, place, much in changes:
        at = min(len(content), len(content) * place // PLACES)
        if kind == "flip" and content:
            at = min(at, len(content) - 1)
            content = content[:at] + bytes([content[at] ^ (1 << much % 8)]) + content[at + 1 :]
        elif kind == "cut":
            content = content[:at]
        elif kind == "drop":
            content = content[:at] + content[at + 1 + much :]
        elif kind == "zero":
            content = content[:at] + bytes(min(much + 1, len(content) - at)) + content[at + 1 + much :]
        elif kind == "repeat":
            content = content[:at] + content[max(0, at - 8 * (much + 1)) : at] * (much % 7 + 1) + content[at:]
        elif kind == "token":
            content = content[:at] + TOKENS[much % len(TOKENS)] + content[at:]
        elif kind == "junk":
            content = content[:at] + bytes((much * k * k + 7 * k) % 256 for k in range(much)) + content[at:]
        elif kind == "swap":
            content = content[at:] + content[:at]
    return content[:LONGEST]


def put(file: Path, content: bytes, instead: str) -> None:
    """Write the file, or what lies in its place."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    if not instead:
        file.write_bytes(content)
    elif instead == "folder":
        file.mkdir()
    elif instead == "fifo":
        os.mkfifo(file)
    elif instead == "link to nothing":
        file.symlink_to("nowhere")
    elif instead == "link to itself":
        file.symlink_to(file.name)
    elif instead == "link outside":
        file.symlink_to("/etc/passwd")
    elif instead == "link to endless zeros":
        file.symlink_to("/dev/zero")


@cache
def _own_place(process: int) -> Path:
    return Path(tempfile.mkdtemp(prefix="cases-"))


@contextmanager
def folder() -> Iterator[Path]:
    """An empty folder of this process, the same each time; the process is in it, so that what a file runs is seen."""
    place, before = _own_place(os.getpid()), os.getcwd()
    os.chdir(place)
    try:
        yield place
    finally:
        os.chdir(before)
        for entry in os.scandir(place):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry, ignore_errors=True)
            else:
                os.unlink(entry)


@st.composite
def file_cases(draw: Any, names: Sequence[str], instead: Sequence[str] = INSTEAD) -> tuple[str, list[Edit], str]:
    """Which of the valid files, its edits, and what lies there instead of it (mostly nothing)."""
    name = draw(st.sampled_from(list(names)))
    found = draw(st.sampled_from(list(instead))) if draw(st.integers(0, 24)) == 24 else ""
    return name, [] if found else draw(edits()), found


Seeds = Callable[[], Mapping[str, bytes]]
