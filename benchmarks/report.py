"""Writes the tables of docs/benchmarks.md from the committed results: ``python -m benchmarks.report``."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.harness import RESULTS, baseline
from dmgan_fast.files import replace_file

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
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


def section(file: Path) -> str:
    rows = json.loads(file.read_text())
    first = rows[0]
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    parts = [f"## {first['device']}, {first['dtype']}"]
    parts.append(f"{first['threads']} threads; allocator: {first['allocator']}; {versions}.")
    for (op, case), group in groupby(rows, key=lambda row: (row["op"], row["case"])):
        parts += [f"### {op}: {case}", table(list(group))]
    return "\n\n".join(parts)


def main() -> None:
    head, _, _ = PAGE.read_text().partition(MARKER)
    sections = [section(file) for file in sorted(RESULTS.glob("*.json"))]
    with replace_file(PAGE) as file:
        file.write_text(head + MARKER + "\n" + "\n\n".join(sections) + "\n")


if __name__ == "__main__":
    main()
