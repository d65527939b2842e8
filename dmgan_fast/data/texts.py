"""Text files as people save them."""

from __future__ import annotations

import codecs
from pathlib import Path

from dmgan_fast.errors import DataError
from dmgan_fast.files import require_regular
from dmgan_fast.foreign import HEAD, what_instead

_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def require_content(file: Path) -> None:
    """Refuse what was saved in place of a file.

    Raises:
        DataError: naming the file, if it can't be read or is a pointer or a web page.
    """
    read_content(file, HEAD)


def read_content(file: Path, most: int = -1) -> bytes:
    """The content, or its first bytes.

    Raises:
        DataError: as ``require_content``.
    """
    try:
        require_regular(file)
        with file.open("rb") as stream:
            content = stream.read(most)
    except OSError as error:
        raise DataError(f"{file} can't be read: {error.strerror}") from None
    if content and (instead := what_instead(content)):
        raise DataError(f"{file} can't be read: it is {instead}")
    return content


def read_text(file: Path, *, errors: str = "strict") -> str:
    """UTF-8, with a byte order mark or without, or UTF-16 with one.

    Raises:
        DataError: naming the file, if it can't be read or is in another encoding.
    """
    content = read_content(file)
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding, errors)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(f"{file}:{line} can't be read: not UTF-8 text; save the file as UTF-8") from None


def read_lines(file: Path, *, errors: str = "strict") -> list[str]:
    """Lines without their ends; only line feeds divide, since captions may hold other separators."""
    return [line.rstrip("\r") for line in read_text(file, errors=errors).split("\n")]


def read_captions(file: Path) -> tuple[str, ...]:
    """Captions, one a line; bytes that are no text are replaced, since published files hold some.

    Raises:
        DataError: if the file can't be read.
    """
    return tuple(line.strip() for line in read_lines(file, errors="replace") if line.strip())


def printable(text: str) -> str:
    """``text`` as any terminal and any JSON reader takes it."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")
