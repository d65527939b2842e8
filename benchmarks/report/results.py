"""The committed results by part, case and CPU level."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import FILES, Row, baseline, by_case, results_of
from dmgan_fast import native
from dmgan_fast.info import LEVEL_NAMES

Implementations = dict[str, Row]


def levels(part: str | None = None) -> list[str]:
    """CPU levels with results, of one part or of any, best first."""
    files = [FILES[part]] if part else FILES.values()
    return [level for level in native.LEVELS if any((results_of(level) / file).exists() for file in files)]


def cases(file: Path) -> list[list[Row]]:
    """The rows of each case of a file."""
    return by_case(json.loads(file.read_text()))


def at_levels(part: str, direction: str) -> dict[tuple[str, str], dict[str, Implementations]]:
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


def authors(rows: Implementations) -> str:
    """The name of the authors' form among the implementations."""
    return baseline(rows.values()) or ""


def ratio(rows: Implementations, name: str) -> str:
    """How many times as fast ours is as ``name``; empty where ``name`` was not measured."""
    other = rows.get(name)
    return f"{other['median_ms'] / rows['dmgan_fast']['median_ms']:.2f}" if other else ""


def commits_of(rows: Sequence[Row]) -> str:
    """Which commits rows were measured at: cases may be of several."""
    commits = list(dict.fromkeys(row["commit"] for row in rows))
    return f"commit{'s' if len(commits) > 1 else ''} {', '.join(commits)}"


def measured_on(part: str) -> str:
    """What the figures of a part were measured on, for each level."""
    where = "{level} ({device}, {threads} threads, {compiler}, {commits})"
    return "; ".join(where.format_map(place) for place in places(part))


def places(part: str, only: tuple[str, str] | None = None) -> list[Row]:
    """For each level a row of a part, or of one op and case of it, with the ``level``'s name and all ``commits``."""
    found = []
    for level in levels(part):
        rows = [row for case in cases(results_of(level) / FILES[part]) for row in case]
        rows = [row for row in rows if only in (None, (row["op"], row["case"]))]
        found.append(rows[0] | {"level": LEVEL_NAMES[level], "commits": commits_of(rows)})
    return found
