"""The command line: any option with any value ends with a status and a paragraph, never with a traceback."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any

import typer.main
from hypothesis import strategies as st

from dmgan_fast import cli
from dmgan_fast.cli.app import app
from dmgan_fast.errors import InputError
from tools.fuzz.files import folder
from tools.fuzz.readers import png
from tools.fuzz.verdict import Target, Wrong

STATUSES = (0, 1, 2, 130)
VALUES = (
    "", "0", "-1", "1", "3", "2.5", "nan", "1e400", "9" * 30, "a", "nowhere", "given.png", ".", "..", "/dev/null/x",
    "\x00", "\ud800", "é",
    "--", "-", "{}", "[", "cpu", "cuda:9", "meta", "24GiB", "-5GiB", "fp32", "fp8", "best", "demo", "birds", "a=b",
    "loop.steps=x", "=", "none",
    "%s", "$(touch pwned)", "; touch pwned", "`touch pwned`", "../" * 20, "http://127.0.0.1:9/x", "x" * 5000, "64",
    "65", "official",
)  # fmt: skip
# What a command needs so that it has something to refuse before any long work.
REFUSED = {
    "demo": ("--train-steps", "0"),
    "pretrain": ("--data", "nowhere"),
    "train": ("--data", "nowhere"),
    "ablate": ("--variants", "another"),
    "study": ("--runs", "nowhere"),
    "evaluate": ("--weights", "nowhere"),
    "plan": ("--size", "65"),
    "benchmark": ("--another",),
    "selfcheck": ("--another",),
    "web": ("--another",),
    "sample": ("--weights", "nowhere"),
}


def commands() -> dict[str, list[str]]:
    """Commands with their options."""
    found = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return {
        name: sorted(
            option
            for parameter in command.params
            for option in getattr(parameter, "opts", ())
            if option.startswith("-")
        )
        for name, command in found.items()
    }


@st.composite
def _lines(draw: Any) -> list[str]:
    known = commands()
    name = draw(st.sampled_from([*known, "another", ""]))
    line = [name] if name else []
    for _ in range(draw(st.integers(0, 3))):
        option = draw(st.sampled_from([*known.get(name, ()), "--another", "--help", "--debug", ""]))
        line += [option] if option else []
        if draw(st.booleans()):
            line.append(draw(st.sampled_from(VALUES)))
    return [*line, *REFUSED.get(name, ())]


def _run(line: list[str]) -> tuple[Any, str]:
    out, before = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="replace"), sys.argv
    sys.argv = ["dmgan-fast", *line]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            cli.main()
        status: Any = 0
    except SystemExit as stop:
        status = stop.code
    finally:
        sys.argv = before
    out.flush()
    return status, out.buffer.getvalue().decode("utf-8", "replace")  # type: ignore[attr-defined]


def _check(line: list[str]) -> None:
    line = [part for part in line if part != "--debug"]  # which asks for tracebacks
    with folder() as place:
        (place / "given.png").write_bytes(png())
        before = sorted(os.listdir(place))
        status, said = _run(line)
        if "Traceback" in said or status not in STATUSES:
            raise Wrong(f"status {status}: {said[-500:]}")
        if status == 2 and not said.strip():
            raise Wrong("status 2 and not a word")
        if os.path.exists("pwned"):
            raise Wrong("a value was run as a command")
        if status == 2 and sorted(os.listdir(place)) != before:
            raise Wrong(f"refused, but it left {sorted(os.listdir(place))}: {said[-300:]}")
    if status == 2:
        raise InputError(said)


def targets() -> Iterator[Target]:
    """The command line."""
    yield Target("command line", "command", _lines(), _check, lambda case: ("",), 0.1)
