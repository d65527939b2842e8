"""What the code says to people, for `make lint` to check its words: comments, docstrings, messages and help.

``python -m tools.prose OUT FOLDER...`` writes a copy of every Python, C++ and HTML file below the folders in which all
else is blank, so that line numbers stay. Texts without a space are names and are left out, and so is what stands
between braces in f-strings and templates.
"""

from __future__ import annotations

import re
import sys
import tokenize
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

FSTRING = getattr(tokenize, "FSTRING_MIDDLE", None)  # the text of an f-string, from Python 3.12 on
CPP = re.compile(r"//[^\n]*|/\*.*?\*/|\"(?:[^\"\\\n]|\\.)*\"", re.S)
TAGS = re.compile(r"\{%.*?%\}|\{\{.*?\}\}|\{#.*?#\}|<[^>]*>", re.S)
SUFFIXES = {".py", ".cpp", ".h", ".cu", ".cuh", ".html"}


def main(out: Path, folders: list[Path]) -> None:
    for folder in folders:
        for file in sorted(folder.rglob("*")):
            if file.suffix in SUFFIXES and not file.is_symlink():
                copy = out / file
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_text(prose(file.read_text(encoding="utf-8"), file.suffix), encoding="utf-8")


def prose(source: str, suffix: str) -> str:
    """``source`` with everything blank that is not for people."""
    if suffix == ".html":
        return TAGS.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), source)
    lines = [[] for _ in range(source.count("\n") + 1)]
    for line, text in _of_python(source) if suffix == ".py" else _of_cpp(source):
        for number, part in enumerate(text.split("\n"), start=line):
            lines[number].append(part)
    return "\n".join("  ".join(parts) for parts in lines)


def _of_python(source: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0] - 1, token.string
        elif token.type in (tokenize.STRING, FSTRING) and " " in token.string:
            formatted = token.type == tokenize.STRING and "f" in token.string.split(token.string[-1])[0].lower()
            yield token.start[0] - 1, re.sub(r"\{[^{}]*\}", " ", token.string) if formatted else token.string


def _of_cpp(source: str) -> Iterator[tuple[int, str]]:
    for found in CPP.finditer(source):
        if " " in found[0]:
            yield source.count("\n", 0, found.start()), found[0]


if __name__ == "__main__":
    main(Path(sys.argv[1]), list(map(Path, sys.argv[2:])))
