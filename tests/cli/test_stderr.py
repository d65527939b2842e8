"""Traces of PyTorch's C++ stay away from standard error; all else comes through."""

import os
import sys

from dmgan_fast.cli.stderr import without_traces

WRITTEN = b"""loading
Exception across libtorch C API boundary: out of memory
frame #0: c10::Error::Error() + 0x1 (0x7f in libc10.so)
<omitting python frames>
the frame #3 of a sentence stays
"""


def test_traces_are_left_out_and_every_other_line_is_kept(capfd, monkeypatch):
    with capfd.disabled():
        reading, writing = os.pipe()
        real = os.dup(2)
        os.dup2(writing, 2)
        os.close(writing)
        monkeypatch.setattr(sys, "stderr", os.fdopen(2, "w", closefd=False))
        try:
            with without_traces():
                os.write(2, WRITTEN)
                print("from Python", file=sys.stderr)
        finally:
            os.dup2(real, 2)
            os.close(real)
        with os.fdopen(reading, "rb") as stream:
            lines = stream.read().decode().splitlines()
    assert sorted(lines) == ["from Python", "loading", "the frame #3 of a sentence stays"]


def test_a_standard_error_that_is_no_file_is_left_alone(monkeypatch):
    class Replaced:
        def fileno(self):
            raise ValueError("no file")

    replaced = Replaced()
    monkeypatch.setattr(sys, "stderr", replaced)
    with without_traces():
        inside = sys.stderr
    assert inside is replaced
    assert sys.stderr is replaced
