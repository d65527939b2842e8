"""This tree against another commit: time of calls of ops, of training steps and of imports.

Each of the two trees has a process of its own, on the same cores. They are asked in turn, in one order and then in the
other, for one answer at a time: 50 calls of an op on a narrow map of 64 × 64 pixels, where much of a call is Python, or
one step. Imports are those of new processes, in CPU time, without that of torch. The ratio is the median over rounds of
this tree's time / the other's: below 1, this tree is faster. Nothing is timed unless both find the same numbers. How
much of a ratio is noise, the commit against itself tells (``--against HEAD``).
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.asked import STEPS
from benchmarks.common import ROOT, Row, Rows, Table, environment, finish, parser_of, some_of, spread_of
from benchmarks.harness import spread
from dmgan_fast.errors import InputError

CALLS = ("memory path", "batch_norm_glu", "conv3x3", "upsample_conv3x3", "words_similarity")
IMPORTS = ("dmgan_fast", "dmgan_fast.functional")
PARTS: dict[str, tuple[str, ...]] = {"import": IMPORTS, "calls": CALLS, "step": tuple(STEPS)}
SAME = 1e-3  # relative, of numbers in float32
NATIVE = ("csrc", "setup.py")  # what the native libraries are made of
IMPORT = "import time, torch; start = time.process_time(); import {}; print(1e3 * (time.process_time() - start))"
KEEP_FREED_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}  # as training does


# ---------------------------------------------------------------------------------------------------------- the trees


def _git(*arguments: str | Path, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)


@contextmanager
def tree_of(commit: str, root: Path = ROOT) -> Iterator[Path]:
    """A folder with that commit and its native libraries: those of ``root`` if their source is the same, else built.

    Raises:
        InputError: if git knows no such commit, or its libraries do not build.
    """
    with TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        made = _git("worktree", "add", "--detach", tree, commit, root=root)
        if made.returncode:
            raise InputError(f"--against {commit}: {made.stderr.strip().splitlines()[-1]}")
        try:
            _provide_libraries(tree, commit, root)
            yield tree
        finally:
            _git("worktree", "remove", "--force", tree, root=root)


def _provide_libraries(tree: Path, commit: str, root: Path) -> None:
    if _git("diff", "--quiet", commit, "--", *NATIVE, root=root).returncode == 0:
        for library in (root / "dmgan_fast").glob("_*.so"):
            shutil.copy(library, tree / "dmgan_fast")
        return
    print(f"building the native libraries of {commit}", file=sys.stderr)
    build = [sys.executable, "setup.py", "build_ext", "--inplace"]
    done = subprocess.run(build, cwd=tree, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"--against {commit}: its native libraries do not build:\n{done.stderr[-2000:]}")


# ------------------------------------------------------------------------------------------------------ the processes


def _variables(tree: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | KEEP_FREED_MEMORY | {"PYTHONPATH": str(tree)}


class Asked:
    """A process that has the package of ``tree``, and answers; it starts when it is first asked."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree

    @cached_property
    def process(self) -> subprocess.Popen[str]:
        code = Path(__file__).with_name("asked.py").read_text()  # this tree's, whatever the other has
        command, pipe = [sys.executable, "-c", code], subprocess.PIPE
        return subprocess.Popen(command, cwd=self.tree, env=_variables(self.tree), stdin=pipe, stdout=pipe, text=True)

    def __enter__(self) -> Asked:
        return self

    def __exit__(self, *_: Any) -> None:
        if "process" in vars(self):
            self.process.kill()
            self.process.wait()

    def __call__(self, case: str) -> tuple[float, dict[str, float]]:
        """Milliseconds, and what was found."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):  # then there is no answer
            print(case, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise InputError(f"the process in {self.tree} has ended in {case!r}; its error stands above")
        milliseconds, found = json.loads(answer)
        return milliseconds, found


def _import(tree: Path, name: str) -> tuple[float, dict[str, float]]:
    """CPU milliseconds of an import in a new process."""
    command = [sys.executable, "-c", IMPORT.format(name)]
    done = subprocess.run(command, cwd=tree, env=_variables(tree), stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout), {}


# ------------------------------------------------------------------------------------------------------- measurements

Ask = Callable[[str], tuple[float, dict[str, float]]]


def are_same(found: dict[str, float], truth: dict[str, float]) -> bool:
    """Whether two commits have found the same numbers under the same names."""
    return found.keys() == truth.keys() and all(
        math.isclose(found[name], number, rel_tol=SAME, abs_tol=1e-6) for name, number in truth.items()
    )


Times = tuple[list[float], list[float]]  # of this tree and of the other, round by round


def take_rounds(case: str, now: Ask, before: Ask, rounds: int) -> Times | None:
    """Milliseconds of both in turn, after an answer of each that is not timed; None if these are not the same."""
    if not are_same(now(case)[1], before(case)[1]):
        return None
    times: Times = [], []
    for number in range(rounds):
        for which in (0, 1) if number % 2 else (1, 0):
            times[which].append((now, before)[which](case)[0])
    return times


def rows_of(before: Path, parts: Sequence[str], rounds: int, pairs: int) -> Rows:
    """Rows of each part's cases: of the tree in the folder ``before``, then of this one, which has the ratios.

    ``rounds``: of each of ``pairs`` of processes, because a process may be lucky for all of its life.
    """
    found: dict[tuple[str, str], list[Times | None]] = {}
    for _ in range(pairs):
        with ExitStack() as stack:
            ask: list[Ask] = [stack.enter_context(Asked(tree)) for tree in (ROOT, before)]
            importing: list[Ask] = [partial(_import, tree) for tree in (ROOT, before)]
            for part in parts:
                for case in PARTS[part]:
                    times = take_rounds(case, *(importing if part == "import" else ask), rounds)
                    found.setdefault((part, case), []).append(times)
    return [row for (part, case), runs in found.items() for row in _rows(part, case, runs)]


def _rows(part: str, case: str, runs: Sequence[Times | None]) -> Rows:
    row: Row = {"op": "against", "direction": part, "case": case, "correct": None not in runs}
    now, before = ([time for times in runs if times for time in times[which]] for which in (0, 1))
    ratios = spread([one / two for one, two in zip(now, before, strict=True)])
    ratios = {name.replace("_ms", "_ratio"): ratio for name, ratio in ratios.items()}
    both = (row | {"implementation": "before"} | spread(before), row | {"implementation": "dmgan_fast"} | spread(now))
    return [both[0], both[1] | ratios]


def table_of(rows: Rows) -> Table:
    """A line for each case."""
    lines = []
    for before, now in zip(rows[::2], rows[1::2], strict=True):
        cells = [now["direction"], now["case"]]
        if not now["correct"]:
            lines.append([*cells, "other numbers: not timed"])
            continue
        low, high = now["p20_ratio"], now["p80_ratio"]
        ratio = f"{now['median_ratio']:.3f} ({low:.3f}–{high:.3f})"
        lines.append([*cells, spread_of(before), spread_of(now), ratio])
    return Table(["part", "case", "before, ms (p20–p80)", "now, ms (p20–p80)", "now / before (p20–p80)"], lines)


@contextmanager
def on_same_cores(threads: int) -> Iterator[None]:
    """Within, this process and those that it starts share as many cores as each has threads: cores differ, too."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:threads])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def main() -> None:
    parser = parser_of(f"{__doc__}\n--repeats: rounds of each of the --pairs of processes.", repeats=11)
    parser.add_argument(
        "--against", required=True, metavar="COMMIT", help="a commit, or the folder of a built checkout"
    )
    parser.add_argument(
        "--parts", type=some_of(PARTS), default=list(PARTS), help=f"of {','.join(PARTS)} (default: all)"
    )
    parser.add_argument("--pairs", type=int, default=3, help="of processes, one after the other (default 3)")
    arguments = parser.parse_args()
    machine = environment() | {name: getattr(arguments, name) for name in ("against", "repeats", "pairs")}
    with ExitStack() as stack:
        try:
            is_folder = Path(arguments.against, "dmgan_fast").is_dir()
            tree = Path(arguments.against).resolve() if is_folder else stack.enter_context(tree_of(arguments.against))
            stack.enter_context(on_same_cores(machine["threads"]))
            rows = rows_of(tree, arguments.parts, arguments.repeats, arguments.pairs)
        except InputError as error:
            parser.error(str(error))
    table_of(rows).print(f"against {arguments.against}")
    finish([row | machine for row in rows], arguments.json)


if __name__ == "__main__":
    main()
