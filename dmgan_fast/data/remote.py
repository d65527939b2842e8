"""Files that lie elsewhere: any address that fsspec knows, as copies on this machine that all of its processes share.

A copy is fetched when it is first needed, compared with its size and SHA-256, and kept as long as there is room; then
the one not used for longest goes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from dmgan_fast.errors import DataError, InputError
from dmgan_fast.files import file_digest
from dmgan_fast.sizes import parse_size, show_size

T = TypeVar("T")
FOLDER = "DMGAN_FAST_SHARDS"  # environment variable: where copies lie
SIZE = "DMGAN_FAST_SHARDS_SIZE"  # how much they may take
TRIES = 4
PAUSE = 0.5  # seconds before the second try; each further one waits twice as long


class Remote(NamedTuple):
    """A file elsewhere; ``size`` in bytes and ``sha256`` of its content, which is empty if not known."""

    url: str
    size: int
    sha256: str = ""

    @property
    def file(self) -> Path:
        """Where its copy lies, if it was fetched. Another content of the same name has another place."""
        mark = hashlib.blake2b(repr((self.url, self.size, self.sha256)).encode(), digest_size=8).hexdigest()
        return copies() / f"{mark}-{self.url.rpartition('/')[2]}"


def is_remote(source: object) -> bool:
    """Whether a data set is named by an address, as ``s3://bucket/birds``."""
    return "://" in str(source)


def join(url: str, name: str) -> str:
    """``name`` below ``url``."""
    return f"{url.rstrip('/')}/{name}"


def copies() -> Path:
    """The folder of copies on this machine."""
    named = os.environ.get(FOLDER)
    return Path(named) if named else Path.home() / ".cache" / "dmgan_fast" / "shards"


def local(remote: Remote) -> Path:
    """The copy of a file, fetched if it is not there. It may go again once others are fetched.

    Raises:
        DataError: if it can't be fetched, is not what it should be, or does not fit here.
    """
    file = remote.file
    if _touch(file, remote.size):
        return file
    from filelock import FileLock

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"):  # one process of this machine fetches it
            if _touch(file, remote.size):
                return file
            make_room(remote, keep=file)
            part = file.with_name(f".{file.name}.part")
            try:
                _again(lambda: _fetch(remote, part), remote.url)
                os.replace(part, file)
            finally:
                part.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{remote.url}: no copy can be kept in {file.parent} ({FOLDER}): {error}") from None
    return file


def use(remote: Remote, read: Callable[[Path], T]) -> T:
    """What ``read`` finds in the copy, though another process may remove it to make room."""
    for _ in range(TRIES):
        file = local(remote)
        try:
            return read(file)
        except FileNotFoundError:
            continue
    raise DataError(
        f"{remote.url}: its copy in {file.parent} went {TRIES} times before it was read: there is too little room; set "
        f"{SIZE} to more, or {FOLDER} to a larger disk"
    )


def make_room(remote: Remote, *, keep: Path) -> None:
    """Remove copies that were not used for longest until there is room for one more.

    Raises:
        DataError: if there is none at all.
    """
    folder = keep.parent
    held = sorted(
        (stat.st_mtime, stat.st_size, path)
        for path in folder.iterdir()
        if path.suffix != ".lock" and not path.name.startswith(".") and (stat := _stat(path)) is not None
    )
    total, free = sum(size for _, size, _ in held), shutil.disk_usage(folder).free
    budget = min(total + free, _budget(total + free))
    for _, size, path in held:
        if total + remote.size <= budget:
            return
        path.unlink(missing_ok=True)
        total -= size
    if remote.size > budget:
        raise DataError(
            f"{remote.url} takes {show_size(remote.size)}, but copies in {folder} may take {show_size(budget)}; set "
            f"{SIZE} to more, or {FOLDER} to a larger disk"
        )


def _budget(available: int) -> int:
    text = os.environ.get(SIZE)
    if not text:
        return available // 2
    try:
        return parse_size(text)
    except InputError:
        raise InputError(f"{SIZE} must be a size as 200GiB, got {text!r}") from None


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _touch(file: Path, size: int) -> bool:
    """Whether a copy is there and whole; it counts as used now."""
    found = _stat(file)
    if found is None or found.st_size != size:
        return False
    try:
        os.utime(file)
    except FileNotFoundError:
        return False
    return True


def _fetch(remote: Remote, part: Path) -> None:
    system, path = system_of(remote.url)
    system.get_file(path, str(part))
    size = part.stat().st_size
    if size != remote.size:
        raise _Other(f"{size:,} bytes came, and {remote.size:,} were expected")
    if remote.sha256 and file_digest(part).sha256 != remote.sha256:
        raise _Other("its SHA-256 is another than in the index")


class _Other(Exception):
    """What came is not what should have come."""


def _again(work: Callable[[], T], url: str) -> T:
    """What ``work`` gives; connections break, so it is tried more than once.

    Raises:
        DataError: with the last reason.
    """
    for number in range(TRIES):
        try:
            return work()
        except FileNotFoundError:
            raise DataError(f"{url} is not there") from None
        except DataError:
            raise
        except Exception as error:  # file systems raise whatever their libraries do
            reason = f"{type(error).__name__}: {error}" if not isinstance(error, _Other) else str(error)
        if number < TRIES - 1:
            time.sleep(PAUSE * 2**number)
    raise DataError(f"{url} can't be fetched, tried {TRIES} times: {reason}")


def system_of(url: str) -> tuple[Any, str]:
    """The file system of an address and the path in it.

    Raises:
        DataError: if nothing here knows such addresses, with what to install.
    """
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(url)
    except (ImportError, ValueError, OSError) as error:
        raise DataError(f"{url} can't be opened: {error}") from None


def content_of(url: str) -> bytes | None:
    """A small file; None if it is not there.

    Raises:
        DataError: if it can't be read.
    """
    system, path = system_of(url)

    def read() -> bytes | None:
        try:
            return bytes(system.cat_file(path))
        except (FileNotFoundError, NotADirectoryError):
            return None

    return _again(read, url)


def names_below(url: str) -> dict[str, int]:
    """Files at an address and in its folders: path below it → size.

    Raises:
        DataError: if they can't be listed.
    """
    system, path = system_of(url)

    def listed() -> dict[str, int]:
        root = path.rstrip("/")
        try:
            found = system.find(root, maxdepth=2, detail=True)
        except FileNotFoundError:
            return {}
        return {name[len(root) :].lstrip("/"): int(about["size"] or 0) for name, about in found.items()}

    return _again(listed, url)
