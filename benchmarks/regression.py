"""History of the ratios authors / ours, and what fell since: ``python -m benchmarks.regression [--record]``.

Times of different days on shared machines say little; ratios of implementations that took turns say much. Each recorded
run is a block of lines in ``results/history.csv``; a ratio more than ``TOLERANCE`` below the last recorded one on the
same device at the same CPU level, with the same kind of compiler and number of threads, has fallen.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import sys
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.common import RESULTS, Row, Rows, baseline, load_rows, results_of
from dmgan_fast.errors import InputError
from dmgan_fast.files import replace_file

HISTORY = RESULTS / "history.csv"
FIELDS = ("date", "commit", "device", "level", "compiler", "threads", "torch", "dtype", "op", "case", "direction")
FIELDS += ("implementation", "median_ms", "ratio")
TOLERANCE = 0.1
WITHOUT_RATIO = ("peak", "components")


class Fallen(NamedTuple):
    """A ratio that fell."""

    what: str
    before: float
    now: float


def ratios(rows: Rows) -> Rows:
    """Rows of ours with ``ratio`` = the authors' median / ours, of the same case and direction."""

    def key(row: Row) -> tuple[Any, ...]:
        return (row["op"], row["case"], row["direction"], row["threads"])

    timed = [row for row in rows if row.get("median_ms") and row["op"] not in WITHOUT_RATIO]
    found = []
    for _, group in groupby(sorted(timed, key=key), key=key):
        same = list(group)
        name = baseline(same)
        if name is None:
            continue
        reference = next(row["median_ms"] for row in same if row["implementation"] == name)
        ours = [row for row in same if row["implementation"].startswith("dmgan_fast")]
        found += [row | {"ratio": reference / row["median_ms"]} for row in ours]
    return found


def _what(row: Row) -> tuple[str, ...]:
    names = ("device", "level", "threads", "dtype", "op", "case", "direction", "implementation")
    return (str(row["compiler"]).split()[0], *(str(row[name]) for name in names))


def history(file: Path = HISTORY) -> list[dict[str, str]]:
    """Recorded lines, oldest first.

    Raises:
        InputError: if the file is no history.
    """
    if not file.exists():
        return []
    with file.open(newline="") as lines:
        reader = csv.DictReader(lines)
        if tuple(reader.fieldnames or ()) != FIELDS:
            raise InputError(f"{file}: not a history of benchmarks: its columns are {reader.fieldnames}")
        return list(reader)


def fallen(now: Rows, before: list[dict[str, str]], tolerance: float = TOLERANCE) -> list[Fallen]:
    """Ratios of ``now`` that lie more than ``tolerance`` below the last recorded ones."""
    last = {_what(row): float(row["ratio"]) for row in before}
    return [
        Fallen(", ".join(_what(row)[2:]), last[_what(row)], row["ratio"])
        for row in now
        if _what(row) in last and row["ratio"] < (1 - tolerance) * last[_what(row)]
    ]


def record(now: Rows, file: Path = HISTORY) -> None:
    """Add lines for today and the current commit."""
    stamp = {"date": datetime.date.today().isoformat()}
    lines: Rows = list(history(file))
    for row in now:
        values = stamp | {"torch": row["versions"]["torch"]} | {name: row[name] for name in FIELDS if name in row}
        lines.append(values | {"median_ms": f"{row['median_ms']:.3f}", "ratio": f"{row['ratio']:.3f}"})
    with replace_file(file) as temporary, temporary.open("w", newline="") as out:
        writer = csv.DictWriter(out, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def check(rows: Rows, file: Path = HISTORY, tolerance: float = TOLERANCE) -> list[Fallen]:
    """Print what fell; with no history, say so."""
    before = history(file)
    found = fallen(ratios(rows), before, tolerance)
    for each in sorted(found, key=lambda f: f.now / f.before):
        print(f"fell: {each.what}: {each.before:.2f}x -> {each.now:.2f}x")
    if not found:
        print("no ratio fell" if before else f"nothing recorded yet in {file.name}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=results_of(), help="folder (default: of the CPU level in use)")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="a smaller fall is noise (default 0.1)")
    parser.add_argument("--record", action="store_true", help="add the ratios to the history")
    arguments = parser.parse_args()
    rows = load_rows(arguments.results)
    found = check(rows, tolerance=arguments.tolerance)
    if arguments.record:
        record(ratios(rows))
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
