"""Files that may be read; files and folders that are replaced whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

BLOCK = 1 << 20  # bytes read at once


def require_regular(file: str | os.PathLike[str]) -> None:
    """Raise ``OSError`` for a pipe, which would be waited for, and for a device, which may have no end."""
    if os.path.exists(file) and not (os.path.isfile(file) or os.path.isdir(file)):
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(file))


def parse_json(text: str | bytes) -> Any:
    """What JSON says; a ``ValueError`` also for what is nested too deeply to be read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def load_json(file: Path) -> Any:
    """``parse_json`` of a file in UTF-8."""
    return parse_json(file.read_text(encoding="utf-8"))


def share(temporary: Path, mode: int) -> None:
    """Give what open() or mkdir() would have given: mkstemp() and mkdtemp() make things private."""
    umask = os.umask(0)
    os.umask(umask)
    temporary.chmod(mode & ~umask)


@contextmanager
def replace_file(target: str | os.PathLike[str], *, durable: bool = False) -> Iterator[Path]:
    """Give a temporary path beside ``target``; on success it becomes ``target`` at once, on failure it vanishes.

    A crash, an exception, a full disk or a loss of power leaves the old file or the new one, whole.

    Args:
        target: the file.
        durable: return only when the new one is sure to be found after a loss of power, which takes a disk a moment.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=target.suffix, dir=target.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        sync(temporary)
        share(temporary, 0o666)
        os.replace(temporary, target)
        if durable:
            sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(target: str | os.PathLike[str], text: str, *, durable: bool = False) -> None:
    """``replace_file`` by ``text`` in UTF-8."""
    with replace_file(target, durable=durable) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def replace_folder(target: str | os.PathLike[str]) -> Iterator[Path]:
    """As ``replace_file``: a temporary folder beside ``target`` takes its place on success, vanishes on failure."""
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    old = temporary.with_name(f"{temporary.name}.old")
    try:
        yield temporary
        sync_below(temporary)
        share(temporary, 0o777)
        if target.exists():
            os.replace(target, old)
        os.replace(temporary, target)
        sync(target.parent)
    except BaseException:
        if old.exists() and not target.exists():
            os.replace(old, target)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


_HALF_DONE = re.compile(r"\.(?P<target>.+)\.[a-z0-9_]{8}(?P<suffix>\.[^.]+)?")


def clear_up(*folders: Path) -> None:
    """Undo what a process that was killed has left half done by ``replace_file`` and ``replace_folder`` in folders.

    Its temporary files and folders are removed; a folder that was taken away for a new one is put back, if the new one
    had not yet taken its place. Nobody else may write there at the same time.
    """
    for folder in folders:
        for entry in sorted(folder.glob(".*")) if folder.is_dir() else ():
            found = _HALF_DONE.fullmatch(entry.name.removesuffix(".old"))
            if found is None or (found["suffix"] or "") != Path(found["target"]).suffix:
                continue
            target = entry.with_name(found["target"])
            if entry.name.endswith(".old") and not target.exists():
                os.replace(entry, target)
            elif entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)


_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)  # of a folder, where a file system knows no such thing


def sync(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk."""
    folder = path.is_dir()
    if folder and sys.platform == "win32":  # folders can't be opened there; names are written with their files
        return
    descriptor = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not folder or error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)


class FileDigest(NamedTuple):
    """Size and SHA-256 of a file."""

    bytes: int
    sha256: str


def file_digest(file: Path) -> FileDigest:
    """Of a file as it is now.

    Raises:
        OSError: if it can't be read.
    """
    digest, size = hashlib.sha256(), 0
    with file.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
            size += len(block)
    return FileDigest(size, digest.hexdigest())


def sync_below(folder: Path) -> None:
    """``sync`` for everything in a folder, and the folder itself."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync(Path(parent, name))
        sync(Path(parent))
