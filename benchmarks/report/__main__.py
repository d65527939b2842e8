"""Writes the tables of docs/benchmarks.md and README from the committed results: ``python -m benchmarks.report``."""

from __future__ import annotations

from pathlib import Path

from benchmarks import roofline
from benchmarks.common import FILES, RESULTS, ROOT, Table, case_table, load_rows, mib, results_of
from benchmarks.report import DOCS, readme, replace_after
from benchmarks.report.results import at_levels, authors, cases, commits_of, levels, measured_on, ratio
from dmgan_fast.info import LEVEL_NAMES

SUMMARY = ("<!-- summary: written by `python -m benchmarks.report` -->\n", "<!-- end of summary -->\n")
HEADLINE = ("<!-- headline: written by `python -m benchmarks.report` -->\n", "<!-- end of headline -->\n")
REPLACED = ("<!-- replaced: written by `python -m benchmarks.report` -->\n", "<!-- end of replaced -->\n")
MARKER = "<!-- tables: written by `python -m benchmarks.report` -->\n"


def section(file: Path) -> str:
    first = cases(file)[0][0]
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    title = f"{LEVEL_NAMES[first['level']]}, {file.stem.replace('_', ' ')}"
    parts = [f"## {title}: {first['device']}, {first['dtype']}"]
    made = f"{first['compiler']}; {commits_of([row for case in cases(file) for row in case])}"
    parts.append(f"{first['threads']} threads; allocator: {first['allocator']}; {made}; {versions}.")
    for rows in cases(file):
        parts += [f"### {rows[0]['op']}: {rows[0]['case']}", case_table(rows).markdown()]
    return "\n\n".join(parts)


def whole() -> str:
    """Whole steps and generating, by level: ours against the authors' loop, eager and compiled."""
    heads = ["authors / ours"]
    for level in levels():
        heads += [f"{LEVEL_NAMES[level]}, s", "eager", "compiled"]
    lines = []
    for part, direction in (("step", "step"), ("sampling", "forward")):
        for (op, case), of_level in at_levels(part, direction).items():
            if op not in ("step", "sampling"):
                continue
            cells = [f"{op}: {case}"]
            for level in levels():
                rows = of_level.get(level)
                seconds = f"{rows['dmgan_fast']['median_ms'] / 1e3:.2f}" if rows else ""
                cells += [seconds, *(ratio(rows, name) if rows else "" for name in ("authors", "authors+compile"))]
            rows = next(iter(of_level.values()))
            cells += [mib(rows[name].get("peak_bytes")) for name in ("dmgan_fast", "authors")]
            lines.append(cells)
    note = f"Steps in float32, PyTorch's kernels limited to the same level. {measured_on('step')}."
    return f"{note}\n\n{Table([*heads, 'peak MiB', 'authors'], lines).markdown()}\n"


def summary() -> str:
    """Forward + backward of each case by level: ours against the authors' form."""
    heads = ["op", "case"]
    for level in levels("ops"):
        heads += [f"{LEVEL_NAMES[level]}, ms", "× authors"]
    lines = []
    for (op, case), of_level in at_levels("ops", "forward+backward").items():
        cells = [op, case]
        for level in levels("ops"):
            rows = of_level.get(level)
            times = ratio(rows, authors(rows)) if rows else ""
            cells += [f"{rows['dmgan_fast']['median_ms']:.1f}" if rows else "", times]
        rows = next(iter(of_level.values()))
        lines.append([*cells, *(mib(rows[name]["saved_bytes"]) for name in ("dmgan_fast", authors(rows)))])
    note = "Forward + backward in float32; where PyTorch's kernels are the rivals they are limited to the same level. "
    return f"{note}{measured_on('ops')}.\n\n{Table([*heads, 'saved MiB', 'authors'], lines).markdown()}\n"


def main() -> None:
    parts = [FILES[part] for part in ("step", "sampling", "ops")]
    files = [file for level in levels() for part in parts if (file := results_of(level) / part).exists()]
    sections = [section(file) for file in files + sorted(RESULTS.glob("gpu_*.json"))]
    bounds = [found for level in levels() if (found := roofline.bounds_of_step(load_rows(results_of(level))))]
    if bounds:
        sections += ["## what bounds a step", *(f"{note}\n\n{table.markdown()}" for note, table in bounds)]
    replace_after(DOCS / "benchmarks.md", MARKER, "\n" + "\n\n".join(sections) + "\n")
    replace_after(DOCS / "benchmarks.md", SUMMARY[0], "\n" + whole() + "\n" + summary() + "\n", SUMMARY[1])
    for markers, text in ((HEADLINE, readme.headline()), (REPLACED, readme.replaced())):
        replace_after(ROOT / "README.md", markers[0], "\n" + text + "\n", markers[1])


if __name__ == "__main__":
    main()
