"""Files that were not written here: what they are, and the tensors in them, read without running anything.

PyTorch's restricted unpickler reads tensors and containers. Numbers and arrays of numpy are read by stand-ins, and any
other object (``argparse.Namespace``, a saved module) becomes a ``Husk``: its state is kept, nothing of it runs.
"""

from __future__ import annotations

import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dmgan_fast.errors import CheckpointError

HEAD = 4096  # bytes looked at to tell what a file is
HUSKS = 64  # kinds of foreign objects in one file
# Files that ask for these are refused: not because it would be run, but because no weights need it.
HOSTILE = {
    "builtins", "os", "posix", "nt", "sys", "subprocess", "shutil", "socket", "importlib", "runpy", "pty", "ctypes",
    "code", "pickle", "marshal", "operator", "functools", "webbrowser", "timeit", "pdb",
}  # fmt: skip
HARMLESS = {"list", "dict", "tuple", "int", "float", "bool", "str", "bytes", "frozenset", "object", "range", "slice"}
_DICTIONARY = re.compile(r"(?i)dict|munch|bunch|box$")
_WANTED = re.compile(r"Unsupported global: GLOBAL (\S+)|load unsupported GLOBAL (\S+)")
_BEFORE_TEXT = b"\xef\xbb\xbf \t\r\n"
_LFS = b"version https://git-lfs.github.com/spec/"


def what_instead(head: bytes) -> str | None:
    """What was saved in place of any file, for a message: nothing, a web page or a pointer; None: none of these.

    Args:
        head: the first ``HEAD`` bytes, or more.
    """
    if not head:
        return "an empty file: the download broke off; fetch it again"
    start = head[:HEAD].lstrip(_BEFORE_TEXT).lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head")) or (start[:1] == b"<" and b"<html" in start[:1024]):
        return f"a web page{_title(head)}, saved in place of the file: open its address in a browser and fetch it again"
    if start.startswith(_LFS):
        size = re.search(rb"size (\d+)", head[:HEAD])
        wanted = f" of {int(size[1]):,} bytes" if size else ""
        return f"a Git LFS pointer that stands for the file{wanted}: fetch the file itself with `git lfs pull`"
    return None


def what_is(file: Path) -> str | None:
    """What a file is that can't be weights, for a message: ``"a web page, ..."``; None: nothing known.

    Raises:
        OSError: if it can't be read.
    """
    with file.open("rb") as stream:
        head = stream.read(HEAD)
    if instead := what_instead(head):
        return instead
    for known, what in _KNOWN:
        if head.startswith(known):
            return what
    if head[257:262] == b"ustar":
        return "a tar archive: unpack it, and give what is inside"
    start = head.lstrip(_BEFORE_TEXT).lower()
    if start.startswith(b"<?xml"):
        return "XML text, as servers answer when they refuse: fetch the file again"
    if start.startswith((b"{", b"[")) and _is_text(head):
        return "JSON text: an answer of a server, or a configuration"
    if _is_text(head):
        return f"a text file that begins with {head[:40].decode(errors='replace').strip()!r}"
    return None


_KNOWN = (
    (b"\x1f\x8b", "a gzip archive: unpack it, and give what is inside"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it, and give what is inside"),
    (b"Rar!", "a RAR archive: unpack it, and give what is inside"),
    (b"BZh", "a bzip2 archive: unpack it, and give what is inside"),
    (b"\xfd7zXZ", "an xz archive: unpack it, and give what is inside"),
    (b"\x89HDF", "an HDF5 file, as Keras writes them, not PyTorch weights"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"%PDF", "a PDF document"),
    (b"\x93NUMPY", "a numpy array, not PyTorch weights"),
)


def _title(head: bytes) -> str:
    found = re.search(rb"<title[^>]*>(.*?)</title>", head[:HEAD], re.IGNORECASE | re.DOTALL)
    return f" ({' '.join(found[1].decode(errors='replace').split())[:80]!r})" if found else ""


def _is_text(head: bytes) -> bool:
    try:
        head[: HEAD - 4].decode()
    except UnicodeDecodeError:
        return False
    return not any(byte < 9 or 13 < byte < 32 for byte in head)


# ------------------------------------------------------------------------------------------------------ PyTorch's files


class Husk:
    """An object of a class that is not run here; ``state``: what was saved of it."""

    state: Any = None

    def __new__(cls, *_: Any, **__: Any) -> Husk:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Mapping:
    """In place of any class of dictionary: a plain one."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return OrderedDict()


def _number(dtype: Any = None, raw: Any = b"") -> Any:
    """In place of numpy's ``scalar``: a plain number, or None if it is none."""
    try:
        return dtype.read(raw)[0]
    except (AttributeError, TypeError, ValueError, IndexError):
        return None


class NumpyType:
    """In place of ``numpy.dtype``: keeps the code and byte order of plain numbers."""

    def __init__(self, code: Any = "", *_: Any) -> None:
        self.code, self.order = str(code), "<"

    def __setstate__(self, state: Any) -> None:
        self.order = ">" if isinstance(state, tuple) and len(state) > 1 and state[1] == ">" else "<"

    def read(self, raw: bytes | str) -> list[Any]:
        """The numbers in ``raw``; ``ValueError`` if they are none."""
        if self.code[:1] not in tuple("biuf"):
            raise ValueError(f"it holds numpy data of type {self.code}; only plain numbers are read")
        content = raw.encode("latin1") if isinstance(raw, str) else raw
        return np.frombuffer(content, np.dtype(self.order + self.code)).tolist()


def _encoded(text: Any = "", *_: Any) -> bytes:
    return text.encode("latin1", "replace") if isinstance(text, str) else b""


_STAND_INS: dict[str, Any] = {"numpy.dtype": NumpyType, "_codecs.encode": _encoded}
for _core in ("numpy.core", "numpy._core"):
    _STAND_INS[f"{_core}.multiarray.scalar"] = _number


class _Asks(Exception):
    """The file needs what is not given to it."""


def read_torch(file: Path, what: str = "checkpoint of tensors only", *, husks: bool = False, mmap: bool = False) -> Any:
    """What ``torch.save`` wrote, safetensors too, without running anything in it.

    Args:
        file: to read.
        what: it should be, for messages.
        husks: read files with other objects in them, which become ``Husk``; else they are refused.
        mmap: leave tensors in the file until they are looked at.

    Raises:
        CheckpointError: if it is missing, something else (says what), broken, or asks for what weights do not need.
    """
    if not file.is_file():
        raise CheckpointError(f"checkpoint not found: {file}")
    try:
        with file.open("rb") as stream:
            head = stream.read(16)
        if len(head) > 9 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < 1 << 28:
            return _safetensors(file)
        _refuse_packed(file, head)
        return _torch(file, husks, mmap)
    except _Asks as error:
        raise CheckpointError(f"{file}: not a {what}, so it was not read: {error}") from None
    except Exception as error:  # torch.load raises many types for a broken file
        try:
            found = what_is(file)
        except OSError as unreadable:
            raise CheckpointError(f"{file} can't be read: {unreadable}") from None
        if found:
            raise CheckpointError(f"{file}: not a {what}, so it was not read: it is {found}") from None
        raise CheckpointError(f"{file}: not a {what}, so it was not read: {_reason(file, error)}") from None


def _safetensors(file: Path) -> Any:
    from safetensors.torch import load_file

    return load_file(file)


def _refuse_packed(file: Path, head: bytes) -> None:
    """PyTorch stores tensors as they are; what is compressed may unpack to any size."""
    if not head.startswith(b"PK"):
        return
    names = _members(file)
    packed = next((entry for entry in names or () if entry.compress_type != zipfile.ZIP_STORED), None)
    if packed is not None:
        raise _Asks(
            f"{packed.filename!r} in it is compressed ({packed.compress_size:,} bytes that unpack to "
            f"{packed.file_size:,}), which PyTorch's files are not; unpack it, and give what is inside"
        )


def _members(file: Path) -> list[zipfile.ZipInfo] | None:
    """Of a zip archive; None for one that is damaged, or none."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error):
        return None


def _torch(file: Path, husks: bool, mmap: bool) -> Any:
    """Each pass reads on to the first kind of object that is not known yet."""
    import torch

    allowed: dict[str, Callable[..., Any] | type] = dict(_STAND_INS)
    harmless = {f"builtins.{name}" for name in HARMLESS}
    for _ in range(HUSKS):
        try:
            with torch.serialization.safe_globals([(value, name) for name, value in allowed.items()]):
                return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap or None)
        except Exception as error:
            match = _WANTED.search(str(error))
            if match is None:
                raise
            name = match[1] or match[2]
            name = name if "." in name else f"builtins.{name}"  # PyTorch leaves builtins out
            if not husks or name in allowed or (name.split(".")[0] in HOSTILE and name not in harmless):
                raise _Asks(f"it asks for {name}, which weights do not need") from None
            allowed[name] = _Mapping if _DICTIONARY.search(name.rpartition(".")[2]) else Husk
    raise _Asks(f"it holds more than {HUSKS} kinds of objects beside tensors")


def _reason(file: Path, error: Exception) -> str:
    """Why, without PyTorch's advice to load it unsafely."""
    entries = _members(file)
    if entries is not None:
        names = [entry.filename for entry in entries]
        if any(name.endswith("constants.pkl") for name in names):
            return "it is a TorchScript program; save its state_dict() with torch.save"
        if not any(name.endswith("data.pkl") for name in names):
            return f"it is a zip archive of {len(names)} files; unpack it, and give what is inside"
    elif file.open("rb").read(2) == b"PK":
        return "it is a zip archive cut short: the download broke off; fetch it again"
    text = str(error).split("weights_only")[0].splitlines()
    first = text[0].strip() if text and text[0].strip() else type(error).__name__
    if "Weights only load failed" in first or "unpickl" in first.lower() or "pickle" in first.lower():
        return "it is damaged, or was not written by PyTorch"
    return f"it is damaged, or was not written by PyTorch ({first[:120]})"
