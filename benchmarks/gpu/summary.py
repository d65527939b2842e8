"""What the stages found, from their rows: one table for the terminal, and ``card.md``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.common import Table, mib
from benchmarks.gpu.stages import DONE, SKIPPED, Options, Row, rows_of
from dmgan_fast.files import write_text

Rows = list[Row]


def summarise(options: Options, *, quiet: bool = False) -> bool:
    """Writes ``card.md`` and, unless quiet, prints its first table; True if every stage so far was done or skipped and
    nothing is wrong."""
    rows = rows_of(options.journal)
    results = [row for row in rows if "status" in row]
    found = {name: [r for r in rows if r["stage"] == name and "status" not in r] for name in {r["stage"] for r in rows}}
    stages = Table(
        ["stage", "status", "seconds", "found"],
        [[r["stage"], _status(r), r["seconds"], _in_short(r["stage"], found[r["stage"]])] for r in results],
    )
    machine = next(iter(found.get("environment", [])), {})
    name = machine.get("name") or machine.get("environment", {}).get("device", "unknown device")
    parts = [f"# {name}", _machine(machine), "## Stages", stages.markdown()]
    wrong = [row for each in found.values() for row in each if is_wrong(row)]
    if wrong:
        parts += ["## Wrong", _table(wrong, WRONG).markdown()]
    for stage, (title, columns) in SECTIONS.items():
        if found.get(stage):
            parts += [
                f"## {title}",
                _table([row for row in found[stage] if row.get("op") != "peak"], columns).markdown(),
            ]
    write_text(options.out / "card.md", "\n\n".join(parts) + "\n")
    if not quiet:
        stages.print(name)
        for row in wrong:
            print("WRONG", row)
    return not wrong and all(row["status"] in (DONE, SKIPPED) for row in results)


def is_wrong(row: Row) -> bool:
    """Ours, or what was trained, is not as it must be; what rivals compute is only told."""
    ours = str(row.get("implementation", "dmgan_fast")).startswith("dmgan_fast")
    return ours and (row.get("correct") is False or row.get("same_bits") is False or row.get("found") is False)


def _status(row: Row) -> str:
    return f"{row['status']}: {row['why']}" if row.get("why") else row["status"]


def _machine(row: Row) -> str:
    if not row:
        return "Unknown: the first stage did not say."
    packages = ", ".join(f"{name} {version}" for name, version in row["info"]["packages"].items())
    card = (
        f"{row['memory_bytes'] / 2**30:.1f} GiB, {row['l2_bytes'] / 2**20:.0f} MiB of L2, capability "
        if "name" in row
        else ""
    )
    card += f"{row['capability']}, CUDA {row['cuda']}, driver {row['driver']}; " if "name" in row else ""
    commit = row["environment"]["commit"]
    return f"{card}{row['cores']} cores; Python {row['info']['python']}, {packages}; commit {commit}."


def _in_short(stage: str, rows: Rows) -> str:
    peaks = {row["case"]: row["per_second"] for row in rows if row.get("op") == "peak"}
    if peaks:
        return f"{len(rows) - len(peaks)} rows; copies at {peaks['copy'] / 1e9:.0f} GB/s"
    wrong = sum(map(is_wrong, rows))
    return f"{len(rows)} rows, {wrong} wrong" if rows else ""


# -------------------------------------------------------------------------------------------------------------- columns

Column = Callable[[Row], Any]


def _of(key: str, digits: str = "") -> Column:
    return lambda row: "" if row.get(key) is None else format(row[key], digits) if digits else row[key]


def _verdict(row: Row) -> str:
    for name in ("unavailable", "failed"):
        if name in row:
            return f"{name}: {row[name][:120]}"
    if row.get("out_of_memory"):
        return "out of memory"
    if row.get("same_bits") is False:
        return "other bits the second time"
    return "wrong" if row.get("correct") is False else "right" if "correct" in row else ""


def _apart(row: Row) -> str:
    measured, predicted = row.get("measured_bytes"), row.get("predicted_bytes")
    return f"{100 * (predicted / measured - 1):+.1f} %" if measured and predicted else ""


def _bandwidth(row: Row) -> str:
    """Of the bytes that must move, by the graph's time where there is one."""
    return f"{row['bytes'] / (row.get('graph_ms') or row['median_ms']) / 1e6:.0f}" if "bytes" in row else ""


WHAT: dict[str, Column] = {name: _of(name) for name in ("op", "case", "precision", "implementation")}
WRONG = {"stage": _of("stage")} | WHAT | {"verdict": _verdict}
SECTIONS: dict[str, tuple[str, dict[str, Column]]] = {
    "check": (
        "Every op against float64",
        WHAT | {"result": _of("error", ".1e"), "gradients": _of("gradient_error", ".1e"), "verdict": _verdict},
    ),
    "steps": (
        "Whole steps",
        WHAT
        | {"ms": _of("median_ms", ".2f"), "host ms": _of("host_ms", ".2f"), "images/s": _of("images_per_second", ".0f")}
        | {"of the peak": _of("of_measured_peak", ".0%"), "of its maker's": _of("of_makers_peak", ".0%")}
        | {"peak MiB": lambda row: mib(row.get("peak_bytes"), 0), "loss": _of("loss", ".4f"), "verdict": _verdict},
    ),
    "ops": (
        "Ops, by events and by replay of a graph",
        WHAT
        | {"direction": _of("direction"), "events ms": _of("median_ms", ".4f"), "graph ms": _of("graph_ms", ".4f")}
        | {"GB/s": _bandwidth}
        | {"verdict": _verdict},
    ),
    "memory": (
        "Peak memory of a step",
        {name: _of(name) for name in ("case", "batch", "precision", "policy")}
        | {"measured MiB": lambda row: mib(row.get("measured_bytes"), 0)}
        | {"planner MiB": lambda row: mib(row.get("predicted_bytes"), 0), "planner": _apart, "verdict": _verdict},
    ),
    "training": (
        "Training on the embedded set",
        {"part": _of("case"), "precision": _of("precision"), "steps": _of("steps"), "seconds": _of("seconds_trained")}
        | {"losses": lambda row: ", ".join(f"{k} {v:.3g}" for k, v in row.get("losses", {}).items())},
    ),
    "sanitizer": ("compute-sanitizer", WHAT | {"found": _of("found"), "verdict": _verdict}),
    "profiler": (
        "Nsight Compute",
        {"kernel": _of("case"), "us": lambda row: f"{row.get('nanoseconds', 0) / 1e3:.1f}"}
        | {"processors %": _of("processors_percent", ".1f"), "memory %": _of("memory_percent", ".1f")},
    ),
}


def _table(rows: Iterable[Row], columns: dict[str, Column]) -> Table:
    return Table(list(columns), [[of(row) for of in columns.values()] for row in rows])
