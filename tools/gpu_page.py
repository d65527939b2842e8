"""Write the tables of docs/gpu.md: GPUs that were measured, what ``auto`` takes, computed bounds.

``python -m tools.gpu_page``. A GPU is measured once the folder that ``benchmarks.card`` filled on it is committed as
``benchmarks/results/gpu/NAME``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.common import GPU_RESULTS, Row, Rows, Table
from benchmarks.gpu.stages import DONE, rows_of
from benchmarks.gpu.summary import SECTIONS, is_wrong
from benchmarks.roofline import table_of_cards
from dmgan_fast.ops import _dispatch

PAGE = Path(__file__).parents[1] / "docs" / "gpu.md"
MARKER, END = "<!-- {}: written by `python -m tools.gpu_page` -->\n", "<!-- end -->\n"
HEADS = ("op", "dtype", "compute capability", "elements of its first tensor", "backends, best first", "rests on")
PROOFS = ("check", "steps", "sanitizer")  # stages without which a GPU is not verified
NONE = "No GPU has been measured yet: every figure of one on this page is computed."


def choices() -> Table:
    """A line for each rule; the first that fits counts."""
    lines = []
    for rule in _dispatch.RULES:
        dtypes = "any" if rule.dtypes == _dispatch.FLOATS else ", ".join(str(dtype)[6:] for dtype in rule.dtypes)
        cards = "from " + ".".join(map(str, rule.oldest)) if rule.oldest > (0, 0) else "any"
        size = f"from {rule.least:,}" if rule.least else "any"
        lines.append([f"`{rule.op}`", dtypes, cards, size, ", ".join((*rule.order, "reference")), rule.rests_on])
    return Table(HEADS, lines)


def is_verified(rows: Rows) -> bool:
    """Whether the run proves the GPU: every stage that does so is done, and nothing of ours is wrong."""
    done = {row["stage"] for row in rows if row.get("status") == DONE}
    return done >= set(PROOFS) and not any(map(is_wrong, rows))


def measured(results: Path = GPU_RESULTS) -> str:
    """One table for each GPU that was measured: its whole steps."""
    files = sorted(results.glob("*/card.jsonl"))
    return "\n\n".join("\n\n".join(_of_gpu(rows_of(file))) for file in files) or NONE


def _of_gpu(rows: Rows) -> Iterator[str]:
    machine: Row = next(row for row in rows if row["stage"] == "environment" and "name" in row)
    environment = machine["environment"]
    state = "verified" if is_verified(rows) else "**not verified**"
    yield f"### {machine['name']}"
    about = f"driver {machine['driver']}, CUDA {machine['cuda']}, torch {environment['versions']['torch']}"
    yield f"{state}; {about}, commit {environment['commit']}."
    _, columns = SECTIONS["steps"]
    steps = [row for row in rows if row["stage"] == "steps" and "implementation" in row]
    yield Table(list(columns), [[of(row) for of in columns.values()] for row in steps]).markdown()


def written(page: str) -> str:
    """The page with its tables."""
    tables = {"measured": measured(), "auto": choices().markdown(), "bounds": table_of_cards().markdown()}
    for name, table in tables.items():
        before, _, rest = page.partition(MARKER.format(name))
        page = before + MARKER.format(name) + table + "\n" + END + rest.partition(END)[2]
    return page


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
