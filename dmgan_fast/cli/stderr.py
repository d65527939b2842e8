"""PyTorch's C++ traces of errors that come back as exceptions anyway do not reach the terminal.

Its stable ABI writes one to standard error, past Python, whenever a native op fails, as when memory runs out.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

TRACE = re.compile(rb"Exception across libtorch C API boundary|^frame #\d+: |^<omitting python frames>")


@contextmanager
def without_traces() -> Iterator[None]:
    """Within, what native code writes to standard error comes through line by line, without those traces."""
    try:
        real = os.dup(2) if sys.stderr.fileno() == 2 else None
    except (OSError, AttributeError, ValueError):  # replaced by something that is no file
        real = None
    if real is None:
        yield
        return
    given = sys.stderr
    given.flush()
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    os.close(writing)
    forward = threading.Thread(target=_forward, args=(reading, real), daemon=True)
    forward.start()
    sys.stderr = os.fdopen(real, "w", 1, given.encoding, given.errors, closefd=False)
    try:
        yield
    finally:
        sys.stderr.flush()
        sys.stderr = given
        os.dup2(real, 2)  # closes the last end for writing, unless a process that continues holds one
        forward.join(timeout=1)
        os.close(real)


def _forward(reading: int, real: int) -> None:
    with open(reading, "rb") as lines:
        for line in lines:
            if not TRACE.search(line):
                os.write(real, line)
