"""Writes the tables of docs/benchmarks.md and README from the committed results: ``python -m benchmarks.report``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks import roofline
from benchmarks.harness import FILES, RESULTS, baseline, load_rows
from dmgan_fast.files import replace_file

ROOT = Path(__file__).parents[1]
PAGE, README = ROOT / "docs" / "benchmarks.md", ROOT / "README.md"
SUMMARY = ("<!-- summary: written by `python -m benchmarks.report` -->\n", "<!-- end of summary -->\n")
MARKER = "<!-- tables: written by `python -m benchmarks.report` -->\n"


def markdown(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; short rows are filled up."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    filled = ([*row, *[""] * (len(heads) - len(row))] for row in rows)
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in filled])


def mib(size: int | None) -> str:
    return "" if size is None else f"{size / 2**20:.1f}"


def table(rows: list[dict[str, Any]]) -> str:
    """One case: a line for each implementation; of an op forward + backward, with forward alone beside it."""
    reference = baseline(rows)
    main = rows[-1]["direction"]
    both = len({row["direction"] for row in rows}) == 2
    heads = ["implementation", *(["forward ms"] if both else []), f"{main.replace('+', ' + ')} ms (p20–p80)"]
    heads += ["× authors", "saved MiB", "peak MiB"]
    lines = []
    times = {(row["implementation"], row["direction"]): row.get("median_ms") for row in rows}
    for row in rows:
        name = row["implementation"]
        if row["direction"] != main:
            continue
        cells = [name]
        if row.get("out_of_memory"):
            cells += ["out of memory"]
        elif not row["correct"]:
            cells += ["wrong result: not timed"]
        else:
            cells += [f"{times[name, 'forward']:.2f}"] if both else []
            cells += [f"{row['median_ms']:.2f} ({row['p20_ms']:.2f}–{row['p80_ms']:.2f})"]
            against = times.get((reference, main))
            cells += [f"{against / row['median_ms']:.2f}" if against else ""]
            cells += [mib(row.get("saved_bytes")), mib(row.get("peak_bytes"))]
        lines.append(cells)
    return markdown(heads, lines)


def cases(file: Path) -> list[list[dict[str, Any]]]:
    rows = json.loads(file.read_text())
    return [list(group) for _, group in groupby(rows, key=lambda row: (row["op"], row["case"]))]


def section(file: Path) -> str:
    first = cases(file)[0][0]
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    parts = [f"## {file.stem.replace('_', ' ')}: {first['device']}, {first['dtype']}"]
    parts.append(f"{first['threads']} threads; allocator: {first['allocator']}; {versions}.")
    for rows in cases(file):
        parts += [f"### {rows[0]['op']}: {rows[0]['case']}", table(rows)]
    return "\n\n".join(parts)


def whole(files: list[Path]) -> str:
    """Whole steps and drawing: ours against the authors' loop, under glibc's defaults, and compiled."""
    lines = []
    for file in files:
        for rows in cases(file) if file.exists() else []:
            by = {row["implementation"]: row for row in rows if row.get("median_ms")}
            if rows[0]["op"] not in ("step", "sampling"):
                continue
            ours, theirs = by["dmgan_fast"], by["authors"]
            others = [by.get(name) for name in ("authors", "authors, default allocator", "authors+compile")]
            ratios = [f"{each['median_ms'] / ours['median_ms']:.2f}" if each else "" for each in others]
            cells = [f"{ours['op']}: {ours['case']}", *(f"{row['median_ms'] / 1e3:.2f}" for row in (ours, theirs))]
            lines.append([*cells, *ratios, mib(ours["peak_bytes"]), mib(theirs["peak_bytes"])])
    heads = ["", "s", "authors", "× authors", "× default allocator", "× compiled", "peak MiB", "authors'"]
    return markdown(heads, lines) + "\n"


def summary(file: Path) -> str:
    """Forward + backward of each case: ours against the authors' form, compiled or not."""
    first = cases(file)[0][0]
    lines = []
    for rows in cases(file):
        both = {row["implementation"]: row for row in rows if row["direction"] == "forward+backward"}
        ours, theirs, compiled = both["dmgan_fast"], both[baseline(rows)], both.get("authors+compile")
        ratio = f"{compiled['median_ms'] / ours['median_ms']:.1f}" if compiled else ""
        times = [f"{row['median_ms']:.1f}" for row in (ours, theirs)]
        against = f"{theirs['median_ms'] / ours['median_ms']:.1f}"
        saved = [mib(row["saved_bytes"]) for row in (ours, theirs)]
        lines.append([ours["op"], ours["case"], *times, against, ratio, *saved])
    heads = ["op", "case", "ms", "authors ms", "× authors", "× compiled", "saved MiB", "authors'"]
    where = f"Forward + backward in {first['dtype']} on {first['threads']} threads of an {first['device']}:"
    return f"{where}\n\n{markdown(heads, lines)}\n"


def replace_text(path: Path, text: str) -> None:
    with replace_file(path) as file:
        file.write_text(text)


def main() -> None:
    head, _, _ = PAGE.read_text().partition(MARKER)
    together = [RESULTS / FILES[part] for part in ("step", "sampling")]
    files = [file for file in together if file.exists()] + sorted(RESULTS.glob("[cg]pu_*.json"))
    sections = [section(file) for file in files]
    bounds = roofline.bounds_of_step(load_rows(RESULTS))
    if bounds:
        sections.append("\n\n".join(["## what bounds a step", bounds.note, markdown(bounds.heads, bounds.body)]))
    replace_text(PAGE, head + MARKER + "\n" + "\n\n".join(sections) + "\n")
    before, _, rest = README.read_text().partition(SUMMARY[0])
    _, _, after = rest.partition(SUMMARY[1])
    replace_text(
        README, before + SUMMARY[0] + whole(together) + "\n" + summary(RESULTS / FILES["ops"]) + SUMMARY[1] + after
    )


if __name__ == "__main__":
    main()
