"""Writes the tables of docs/benchmarks.md and README from the committed results: ``python -m benchmarks.report``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks import roofline
from benchmarks.harness import FILES, RESULTS, baseline, load_rows, results_of
from dmgan_fast import native
from dmgan_fast.files import replace_file
from dmgan_fast.info import LEVEL_NAMES

ROOT = Path(__file__).parents[1]
PAGE, README = ROOT / "docs" / "benchmarks.md", ROOT / "README.md"
SUMMARY = ("<!-- summary: written by `python -m benchmarks.report` -->\n", "<!-- end of summary -->\n")
MARKER = "<!-- tables: written by `python -m benchmarks.report` -->\n"


Implementations = dict[str, dict[str, Any]]


def levels(part: str | None = None) -> list[str]:
    """CPU levels with results, of one part or of any, best first."""
    files = [FILES[part]] if part else FILES.values()
    return [level for level in native.LEVELS if any((results_of(level) / file).exists() for file in files)]


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
    title = f"{LEVEL_NAMES[first['level']]}, {file.stem.replace('_', ' ')}"
    parts = [f"## {title}: {first['device']}, {first['dtype']}"]
    made = f"{first['compiler']}; commit {first['commit']}"
    parts.append(f"{first['threads']} threads; allocator: {first['allocator']}; {made}; {versions}.")
    for rows in cases(file):
        parts += [f"### {rows[0]['op']}: {rows[0]['case']}", table(rows)]
    return "\n\n".join(parts)


def by_case(part: str, direction: str) -> dict[tuple[str, str], dict[str, Implementations]]:
    """Op and case → level → implementation → row, of one part at all levels that were measured."""
    found: dict[tuple[str, str], dict[str, Implementations]] = {}
    for level in levels(part):
        for rows in cases(results_of(level) / FILES[part]):
            timed = {
                row["implementation"]: row for row in rows if row.get("median_ms") and row["direction"] == direction
            }
            if "dmgan_fast" in timed and any(name.startswith("authors") for name in timed):
                found.setdefault((rows[0]["op"], rows[0]["case"]), {})[level] = timed
    return found


def _ratio(rows: Implementations, name: str) -> str:
    other = rows.get(name)
    return f"{other['median_ms'] / rows['dmgan_fast']['median_ms']:.2f}" if other else ""


def _measured_on(part: str) -> str:
    """What each level's figures were measured on."""
    firsts = [cases(results_of(level) / FILES[part])[0][0] for level in levels(part)]
    where = "{level}: {device}, {threads} threads, {compiler}, commit {commit}"
    return "; ".join(where.format_map(row | {"level": LEVEL_NAMES[row["level"]]}) for row in firsts)


def whole() -> str:
    """Whole steps and generating, by level: ours against the authors' loop, eager and compiled."""
    heads = ["authors / ours"]
    for level in levels():
        heads += [f"{LEVEL_NAMES[level]}, s", "eager", "compiled"]
    lines = []
    for part, direction in (("step", "step"), ("sampling", "forward")):
        for (op, case), of_level in by_case(part, direction).items():
            if op not in ("step", "sampling"):
                continue
            cells = [f"{op}: {case}"]
            for level in levels():
                rows = of_level.get(level)
                seconds = f"{rows['dmgan_fast']['median_ms'] / 1e3:.2f}" if rows else ""
                cells += [seconds, *(_ratio(rows, name) if rows else "" for name in ("authors", "authors+compile"))]
            rows = next(iter(of_level.values()))
            cells += [mib(rows[name].get("peak_bytes")) for name in ("dmgan_fast", "authors")]
            lines.append(cells)
    note = f"Steps in float32, PyTorch's kernels limited to the same level. {_measured_on('step')}."
    return f"{note}\n\n{markdown([*heads, 'peak MiB', 'authors'], lines)}\n"


def summary() -> str:
    """Forward + backward of each case by level: ours against the authors' form."""
    heads = ["op", "case"]
    for level in levels("ops"):
        heads += [f"{LEVEL_NAMES[level]}, ms", "× authors"]
    lines = []
    for (op, case), of_level in by_case("ops", "forward+backward").items():
        cells = [op, case]
        for level in levels("ops"):
            rows = of_level.get(level)
            cells += (
                [f"{rows['dmgan_fast']['median_ms']:.1f}", _ratio(rows, baseline([*rows.values()]))]
                if rows
                else ["", ""]
            )
        rows = next(iter(of_level.values()))
        lines.append([*cells, *(mib(rows[name]["saved_bytes"]) for name in ("dmgan_fast", baseline([*rows.values()])))])
    note = "Forward + backward in float32; where PyTorch's kernels are the rivals they are limited to the same level. "
    return f"{note}{_measured_on('ops')}.\n\n{markdown([*heads, 'saved MiB', 'authors'], lines)}\n"


def replace_text(path: Path, text: str) -> None:
    with replace_file(path) as file:
        file.write_text(text)


def main() -> None:
    head, _, _ = PAGE.read_text().partition(MARKER)
    parts = [FILES[part] for part in ("step", "sampling", "ops")]
    files = [file for level in levels() for part in parts if (file := results_of(level) / part).exists()]
    sections = [section(file) for file in files + sorted(RESULTS.glob("gpu_*.json"))]
    bounds = roofline.bounds_of_step(load_rows(results_of(levels()[0])))
    if bounds:
        sections.append("\n\n".join(["## what bounds a step", bounds.note, markdown(bounds.heads, bounds.body)]))
    replace_text(PAGE, head + MARKER + "\n" + "\n\n".join(sections) + "\n")
    before, _, rest = README.read_text().partition(SUMMARY[0])
    _, _, after = rest.partition(SUMMARY[1])
    replace_text(README, before + SUMMARY[0] + whole() + "\n" + summary() + SUMMARY[1] + after)


if __name__ == "__main__":
    main()
