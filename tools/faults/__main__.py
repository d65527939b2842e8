"""Faults on purpose.

    python -m tools.faults                          every scenario, and 500 kills at random moments
    python -m tools.faults --only kills --kills 50
    python -m tools.faults --only "disk full" signals

A run of a second is disturbed in another way each time: killed, starved of disk, given damaged files or wrong numbers,
stopped by a scheduler. Afterwards it must resume from its last completed checkpoint, and end with the bits of a run
that nobody disturbed; or it must refuse, in one paragraph that names what is wrong. Prints a table, writes a report,
and exits with 1 if something did not hold. What this machine does not allow, a small file system say, is listed as not
run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tools.faults.kills import trials
from tools.faults.rig import Broken, Impossible, Rig
from tools.faults.scenarios import scenarios

ROOT = Path(__file__).parents[2]
KILLS = "kills"
LINE = "{:28} {:9} {:>7}  {}"


def run_scenarios(rig: Rig, names: Iterable[str]) -> Iterable[dict[str, Any]]:
    """A row for each."""
    for name in names:
        began = time.monotonic()
        try:
            result, what = "held", scenarios()[name](rig)
        except Broken as error:
            result, what = "BROKEN", str(error)
        except Impossible as error:
            result, what = "not run", str(error)
        yield {"name": name, "result": result, "seconds": round(time.monotonic() - began, 1), "what": what}


def run_kills(rig: Rig, count: int, jobs: int) -> dict[str, Any]:
    """So many trials, several at a time, each in a process of its own."""
    began, pipes = time.monotonic(), []
    for job in range(jobs):
        share = range(job, count, jobs)
        read, write = os.pipe()
        if os.fork() == 0:
            os.close(read)
            told, broken = trials(rig, len(share), 100_000 * job, f"kills-{job}")
            with os.fdopen(write, "w") as stream:
                json.dump([told, broken], stream)
            os._exit(0)
        os.close(write)
        pipes.append(read)
    told, broken = [], []
    for read in pipes:
        with os.fdopen(read) as stream:
            content = stream.read()
        some, wrong = json.loads(content) if content else ([], ["a process that ran trials ended"])
        told, broken = told + some, broken + wrong
        os.wait()
    kills = [kill for trial in told for kill in trial["kills"]]
    moments = dict(Counter(kill["moment"] for kill in kills))
    steps = dict(sorted(Counter(kill["goes on from"] for kill in kills).items()))
    return {
        "name": KILLS,
        "result": "BROKEN" if broken or len(told) != count else "held",
        "seconds": round(time.monotonic() - began, 1),
        "what": f"{len(told)} of {count} runs went on and ended with the same bits; kills by moment {moments}, by the "
        f"step gone on from {steps}" + "".join(f"; {each}" for each in broken[:5]),
        "trials": told,
        "broken": broken,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*scenarios(), KILLS]
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=names, default=names, help=", ".join(names))
    parser.add_argument("--kills", type=int, default=500, help="how many runs are killed")
    parser.add_argument("--jobs", type=int, default=max(1, os.cpu_count() or 1), help="killed runs at a time")
    parser.add_argument("--report", type=Path, default=ROOT / "build" / "faults.json")
    arguments = parser.parse_args()
    folder, rows = Path(tempfile.mkdtemp(prefix="faults-")), []
    print(LINE.format("fault", "result", "seconds", "what was seen"), flush=True)
    try:
        rig = Rig(folder)
        for row in run_scenarios(rig, [name for name in arguments.only if name != KILLS]):
            rows.append(row)
            print(LINE.format(row["name"], row["result"], row["seconds"], row["what"]), flush=True)
        if KILLS in arguments.only:
            row = run_kills(rig, arguments.kills, arguments.jobs)
            rows.append(row)
            print(LINE.format(row["name"], row["result"], row["seconds"], row["what"]), flush=True)
    finally:
        if not any(row["result"] == "BROKEN" for row in rows):
            shutil.rmtree(folder, ignore_errors=True)
        else:
            print(f"what is left of them: {folder}")
    arguments.report.parent.mkdir(parents=True, exist_ok=True)
    arguments.report.write_text(json.dumps(rows, indent=1) + "\n")
    broken = [row["name"] for row in rows if row["result"] == "BROKEN"]
    print(f"{len(rows)} faults, {len(broken)} broken: {', '.join(broken) or 'none'}; report: {arguments.report}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
