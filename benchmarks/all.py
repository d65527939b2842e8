"""Everything in one command, on a CPU: measures, compares with the history, writes tables and the report.

``python -m benchmarks.all [--level avx2] [--only step,sampling] [--record]``. Each part runs in a process of its own
and writes its file in ``results/<level>/``; ``python -m benchmarks.<part>`` runs it alone. ``--level`` limits us and
PyTorch's own kernels alike to a lower CPU level. It fails if a part failed or a ratio fell. On a GPU: ``make gpu``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import regression
from benchmarks.common import FILES, ROOT, limited_to, load_rows, results_of, some_of
from benchmarks.report import __main__ as report
from benchmarks.report import page
from dmgan_fast import native

# Runs of each; they keep the whole within half an hour on two cores.
REPEATS = {"ops": 7, "step": 5, "sampling": 7, "scaling": 3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--level", choices=native.cpu_levels(), default=native.cpu_level(), help="CPU level to measure")
    parser.add_argument("--only", type=some_of(FILES), default=list(FILES), help="some parts (default: all)")
    parser.add_argument("--authors", type=Path, metavar="PATH", help="a checkout of the authors' DM-GAN, also timed")
    parser.add_argument("--record", action="store_true", help="add the ratios to the history")
    parser.add_argument("--report", type=Path, metavar="FILE", help="also write the page of figures")
    arguments = parser.parse_args()
    failed, folder = [], results_of(arguments.level)
    folder.mkdir(exist_ok=True)
    environment = os.environ | limited_to(arguments.level)
    for part in arguments.only:
        options = ["--repeats", str(REPEATS[part])] if part in REPEATS else []
        if part == "step" and arguments.authors:
            options += ["--authors", str(arguments.authors.absolute())]
        start = time.perf_counter()
        command = [sys.executable, "-m", f"benchmarks.{part}", "--json", str(folder / FILES[part]), *options]
        if subprocess.run(command, cwd=ROOT, env=environment).returncode:
            failed.append(part)
        print(f"-- {part}: {time.perf_counter() - start:.0f} s", flush=True)
    rows = load_rows(folder)
    fell = regression.check(rows)
    if arguments.record:
        regression.record(regression.ratios(rows))
    report.main()
    page.first_figure(rows, ROOT / "docs" / "figures" / "benchmarks.svg")
    if arguments.report:
        page.write(rows, arguments.report)
    if failed or fell:
        sys.exit(f"failed: {', '.join(failed) or 'nothing'}; ratios that fell: {len(fell)}")


if __name__ == "__main__":
    main()
