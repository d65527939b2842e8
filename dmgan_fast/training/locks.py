"""One run, one writer: who writes a folder holds a lock on it, which the system takes back when the process ends."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from dmgan_fast.errors import InputError

LOCK_NAME = ".lock"


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Within, this process alone writes ``folder``, which is made if it is not there.

    The lock is the system's, on an open file: a process that crashes or is killed leaves none behind.

    Raises:
        InputError: if another process holds it, naming that process.
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    file = _locked(folder)
    try:
        with suppress(OSError):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}")
            file.flush()
        yield
    finally:
        with suppress(OSError):
            (folder / LOCK_NAME).unlink()  # while it is held, so that nobody else's is taken away
        file.close()
        for each in made:  # nothing was written: leave no empty folders
            with suppress(OSError):
                each.rmdir()


def _locked(folder: Path) -> IO[str]:
    path = folder / LOCK_NAME
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = open(path, "a+", encoding="utf-8")  # noqa: SIM115  (held open for as long as the lock)
        except OSError as error:
            raise InputError(f"{folder} can't be written: {error}") from None
        try:
            _lock(file)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise InputError(
                f"{folder} is being written by {holder}; wait until it ends, stop it, or give another --out"
            ) from None
        with suppress(OSError):
            if os.path.samestat(os.stat(path), os.fstat(file.fileno())):
                return file
        file.close()  # its last holder took the file away in between


def _lock(file: IO[str]) -> None:
    """Take the lock or raise ``BlockingIOError``; where files can't be locked at all, continue without."""
    if sys.platform == "win32":
        import msvcrt

        try:
            file.seek(1 << 30)  # a byte that nobody reads
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError from error
        return
    import errno
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise BlockingIOError from error
