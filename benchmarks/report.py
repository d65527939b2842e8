"""Writes the tables of docs/benchmarks.md and README from the committed results: ``python -m benchmarks.report``."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.harness import RESULTS, baseline
from dmgan_fast.files import replace_file

ROOT = Path(__file__).parents[1]
PAGE, README = ROOT / "docs" / "benchmarks.md", ROOT / "README.md"
SUMMARY = ("<!-- summary: written by `python -m benchmarks.report` -->\n", "<!-- end of summary -->\n")
MARKER = "<!-- tables: written by `python -m benchmarks.report` -->\n"


def table(rows: list[dict[str, Any]]) -> str:
    """One case: a line for each implementation, forward + backward, with forward alone beside it."""
    reference = baseline(rows)
    lines = ["| implementation | forward ms | forward + backward ms (p20–p80) | × authors | saved MiB | peak MiB |"]
    lines.append("|---|---|---|---|---|---|")
    times = {(row["implementation"], row["direction"]): row.get("median_ms") for row in rows}
    for row in rows:
        name = row["implementation"]
        if row["direction"] != "forward+backward":
            continue
        if not row["correct"]:
            lines.append(f"| {name} | wrong result: not timed | | | | |")
            continue
        ratio = times[reference, "forward+backward"] / row["median_ms"]
        spread = f"{row['p20_ms']:.2f}–{row['p80_ms']:.2f}"
        lines.append(
            f"| {name} | {times[name, 'forward']:.2f} | {row['median_ms']:.2f} ({spread}) "
            f"| {ratio:.2f} | {row['saved_bytes'] / 2**20:.1f} | {row['peak_bytes'] / 2**20:.1f} |"
        )
    return "\n".join(lines)


def cases(file: Path) -> list[list[dict[str, Any]]]:
    rows = json.loads(file.read_text())
    return [list(group) for _, group in groupby(rows, key=lambda row: (row["op"], row["case"]))]


def section(file: Path) -> str:
    first = cases(file)[0][0]
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    parts = [f"## {first['device']}, {first['dtype']}"]
    parts.append(f"{first['threads']} threads; allocator: {first['allocator']}; {versions}.")
    for rows in cases(file):
        parts += [f"### {rows[0]['op']}: {rows[0]['case']}", table(rows)]
    return "\n\n".join(parts)


def summary(file: Path) -> str:
    """Forward + backward of each case: ours against the authors' form, compiled or not."""
    first = cases(file)[0][0]
    lines = [f"Forward + backward in {first['dtype']} on {first['threads']} threads of an {first['device']}:", ""]
    lines += ["| op | case | ms | authors ms | × authors | × compiled | saved MiB | authors' |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for rows in cases(file):
        both = {row["implementation"]: row for row in rows if row["direction"] == "forward+backward"}
        ours, theirs, compiled = both["dmgan_fast"], both[baseline(rows)], both.get("authors+compile")
        ratio = f"{compiled['median_ms'] / ours['median_ms']:.1f}" if compiled else ""
        lines.append(
            f"| {ours['op']} | {ours['case']} | {ours['median_ms']:.1f} | {theirs['median_ms']:.1f} "
            f"| {theirs['median_ms'] / ours['median_ms']:.1f} | {ratio} "
            f"| {ours['saved_bytes'] / 2**20:.1f} | {theirs['saved_bytes'] / 2**20:.1f} |"
        )
    return "\n".join(lines) + "\n"


def replace_text(path: Path, text: str) -> None:
    with replace_file(path) as file:
        file.write_text(text)


def main() -> None:
    head, _, _ = PAGE.read_text().partition(MARKER)
    sections = [section(file) for file in sorted(RESULTS.glob("[cg]pu_*.json"))]
    replace_text(PAGE, head + MARKER + "\n" + "\n\n".join(sections) + "\n")
    before, _, rest = README.read_text().partition(SUMMARY[0])
    _, _, after = rest.partition(SUMMARY[1])
    replace_text(README, before + SUMMARY[0] + summary(RESULTS / "cpu_float32.json") + SUMMARY[1] + after)


if __name__ == "__main__":
    main()
