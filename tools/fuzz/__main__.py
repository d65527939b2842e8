"""Bad input by the ten thousand.

    python -m tools.fuzz                                   20,000 cases for each op, function, reader and command
    python -m tools.fuzz --cases 500 --only memory_read    some of one
    python -m tools.fuzz --repeat memory_read "{...}"      one case, as a report shows it

Each case runs in a child process with a limit on its time and memory. A case must be accepted with the right answer or
be refused by an error of the project's own that names the argument or the file; anything else is a failure: another
exception, a crash, a hang, a wrong number. Prints a table, writes a report and exits with 1 if anything failed.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from dmgan_fast import __version__
from tools.fuzz.campaign import Row, campaign
from tools.fuzz.targets import TARGETS
from tools.fuzz.verdict import Fault, judge

ROOT = Path(__file__).parents[2]
LINE = "{:28} {:9} {:>9} {:>9} {:>9} {:>9} {:>8}"


def _line(row: Row) -> str:
    counts = (row.cases, row.refused, row.accepted, row.failures)
    return LINE.format(row.name, row.kind, *(f"{count:,}" for count in counts), f"{row.seconds:,.0f}")


def _run(arguments: argparse.Namespace) -> int:
    chosen = [target for name, target in TARGETS.items() if not arguments.only or name in arguments.only]
    rows = []
    print(LINE.format("target", "kind", "cases", "refused", "accepted", "failures", "seconds"), flush=True)
    for row in campaign(
        chosen, cases=arguments.cases, number=arguments.seed, limit=arguments.limit, jobs=arguments.jobs
    ):
        rows.append(row)
        print(_line(row), flush=True)
        for example in row.examples[: arguments.show]:
            print(f"    {example['what']}\n      {example['case']}", flush=True)
        _write(arguments, rows)
    failures = sum(row.failures for row in rows)
    print(f"{sum(row.cases for row in rows):,} cases, {failures:,} failures; report: {arguments.report}")
    return 1 if failures else 0


def _write(arguments: argparse.Namespace, rows: Sequence[Row]) -> None:
    report = {
        "versions": {"dmgan_fast": __version__, "torch": torch.__version__},
        "seed": arguments.seed,
        "cases": arguments.cases,
        "seconds_a_case": arguments.limit,
        "targets": [row.to_dict() for row in sorted(rows, key=lambda row: list(TARGETS).index(row.name))],
    }
    arguments.report.parent.mkdir(parents=True, exist_ok=True)
    arguments.report.write_text(json.dumps(report, indent=1) + "\n")


def _repeat(name: str, case: str) -> int:
    try:
        print(judge(TARGETS[name], ast.literal_eval(case)))
    except Fault as fault:
        print(f"failed: {fault}")
        return 1
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20_000, help="of each target")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=list(TARGETS), help=", ".join(TARGETS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds that one case may take")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 1) // 2), help="targets at a time")
    parser.add_argument("--show", type=int, default=3, help="failures of a target that are printed")
    parser.add_argument("--report", type=Path, default=ROOT / "build" / "fuzz.json")
    parser.add_argument("--repeat", nargs=2, metavar=("NAME", "CASE"), help="one case")
    arguments = parser.parse_args()
    return _repeat(*arguments.repeat) if arguments.repeat else _run(arguments)


if __name__ == "__main__":
    sys.exit(main())
