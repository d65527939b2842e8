"""Files that may be read; files and folders that are replaced whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def require_regular(file: str | os.PathLike[str]) -> None:
    """Raise ``OSError`` for a pipe, which would be waited for, and for a device, which may have no end."""
    if os.path.exists(file) and not (os.path.isfile(file) or os.path.isdir(file)):
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(file))


@contextmanager
def replace_file(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside ``target``; on success it becomes ``target`` at once, on failure it vanishes.

    A crash, an exception or a full disk leaves the old file as it was.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=target.suffix, dir=target.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes private files; give what open() would have given
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replace_folder(target: str | os.PathLike[str]) -> Iterator[Path]:
    """As ``replace_file``: a temporary folder beside ``target`` takes its place on success, vanishes on failure."""
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    old = temporary.with_name(f"{temporary.name}.old")
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        if target.exists():
            os.replace(target, old)
        os.replace(temporary, target)
    except BaseException:
        if old.exists() and not target.exists():
            os.replace(old, target)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
