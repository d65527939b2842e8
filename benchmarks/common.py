"""What all benchmarks share: the command line, rows and where they are kept, the machine, and tables."""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import torch
from rich.console import Console
from rich.table import Table as RichTable
from torch import Tensor

from benchmarks.precision import PRECISIONS, precisions, set_precision
from dmgan_fast import __version__, native
from dmgan_fast.files import write_text
from dmgan_fast.info import processor
from dmgan_fast.training import allocator

Row = dict[str, Any]
Rows = list[Row]
ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
GPU_RESULTS = RESULTS / "gpu"
FILES = {  # part of `benchmarks.all` → its committed rows
    "roofline": "roofline.json",
    "ops": "cpu_float32.json",
    "step": "step.json",
    "sampling": "sampling.json",
    "components": "components.json",
    "scaling": "scaling.json",
}


# --------------------------------------------------------------------------------------------------------- the machine


@dataclass(frozen=True)
class Target:
    """Where and in which of ``PRECISIONS`` a benchmark runs."""

    device: str = "cpu"
    precision: str = "fp32"

    @property
    def dtype(self) -> torch.dtype:
        return PRECISIONS[self.precision].dtype

    @property
    def tolerance(self) -> float:
        """Relative error against float64 that is right in this precision."""
        return PRECISIONS[self.precision].tolerance

    def place(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Inputs there, as leaves."""
        return {name: x.to(self.device, self.dtype).requires_grad_() for name, x in inputs.items()}

    def backends(self) -> dict[str, str]:
        """Names of our implementations → backends."""
        chosen = {"dmgan_fast": "auto"}
        return chosen if self.device == "cpu" else chosen | {f"dmgan_fast, {name}": name for name in ("cuda", "triton")}

    def synchronize(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def environment(target: Target | None = None) -> Row:
    """What every row says about where it was measured."""
    target = target or Target()
    return {
        "device": torch.cuda.get_device_name() if target.device == "cuda" else processor(),
        "dtype": str(target.dtype).removeprefix("torch."),
        "precision": target.precision,
        "level": native.cpu_level(),
        "compiler": native.compiler(),
        "commit": commit(),
        "threads": torch.get_num_threads(),
        "allocator": keep_freed_memory() if target.device == "cpu" else "CUDA caching allocator",
        "versions": {"dmgan_fast": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def keep_freed_memory() -> str:
    """Let glibc keep freed memory, as training does: its default maps every large tensor anew. Same for all."""
    return "glibc, freed memory kept" if allocator.keep_freed_memory() else "system"


def commit() -> str:
    """The commit that is measured; with ``+`` where files differ from it."""
    try:
        told = subprocess.run(["git", "describe", "--always", "--dirty=+"], capture_output=True, text=True, cwd=ROOT)
    except FileNotFoundError:
        return "unknown"
    return told.stdout.strip() or "unknown"


def limited_to(level: str) -> dict[str, str]:
    """Environment variables that limit us and PyTorch's own kernels alike to a CPU level.

    Inductor finds compiled code again by its source alone: code made for wider registers crashed at a lower level.
    """
    limits = {"avx2": ("avx2", "AVX2", "AVX2"), "sse2": ("default", "SSE41", "SSE4_2")}
    variables = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")
    own = {native.LEVEL_VARIABLE: level, "TORCHINDUCTOR_CACHE_DIR": str(Path(gettempdir(), f"inductor_{level}"))}
    return own | dict(zip(variables, limits.get(level, ()), strict=False))


# ---------------------------------------------------------------------------------------------------------------- rows


def results_of(level: str | None = None) -> Path:
    """The folder of committed results of a CPU level; of the one in use by default."""
    return RESULTS / (level or native.cpu_level())


def results_of_gpu(name: str) -> Path:
    """The folder of committed results of a GPU, by PyTorch's name of it."""
    return GPU_RESULTS / "_".join(re.findall(r"[a-z0-9]+", name.lower()))


def load_rows(folder: Path) -> Rows:
    """Rows of all parts that have been measured."""
    files = [folder / name for name in FILES.values()]
    return [row for file in files if file.exists() for row in json.loads(file.read_text())]


def write_json(file: Path, content: Any) -> None:
    write_text(file, json.dumps(content, indent=1) + "\n")


def by_case(rows: Iterable[Row]) -> list[Rows]:
    """Neighbouring rows of one op and case, in one precision."""
    return [list(group) for _, group in groupby(rows, key=_cell)]


def baseline(rows: Iterable[Row]) -> str | None:
    """The implementation the others are compared with: the authors' form, in the layout of the inputs."""
    return next((row["implementation"] for row in rows if row["implementation"].startswith("authors")), None)


# -------------------------------------------------------------------------------------------------------- command line


def parser_of(description: str | None, repeats: int | None = None) -> argparse.ArgumentParser:
    """With ``--json`` and, for what is timed, ``--repeats``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the rows here")
    if repeats:
        parser.add_argument("--repeats", type=int, default=repeats, help=f"runs of each (default {repeats})")
    return parser


def add_target(parser: argparse.ArgumentParser) -> None:
    """``--device``, ``--precision`` and ``--tiny``, for ``target_of``."""
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to run (default cpu)")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="fp32", help="of products; tf32 on GPUs only (default fp32)"
    )
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try the command itself")


def target_of(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> Target:
    """What the arguments ask for; PyTorch's products are rounded accordingly from here on.

    Ends the program with a message if this machine has no such device, or the device no such precision.
    """
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("argument --device: cuda was asked for, but PyTorch sees no CUDA device here; there is cpu")
    known = precisions(arguments.device)
    if arguments.precision not in known:
        asked = f"{arguments.precision} was asked for, but --device {arguments.device} has {', '.join(known)}"
        parser.error(f"argument --precision: {asked}")
    set_precision(arguments.precision)
    return Target(arguments.device, arguments.precision)


def some_of(known: Iterable[str]) -> Any:
    """An argument's type: names among ``known``, with commas between."""

    def parse(text: str) -> list[str]:
        names = text.split(",")
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"no part {', '.join(unknown)}; there are {', '.join(known)}")
        return names

    return parse


def _cell(row: Row) -> tuple[str, ...]:
    """Op, case and precision; rows of old runs, which did not say, were of fp32."""
    return row["op"], row["case"], row.get("precision", "fp32")


def save(rows: Rows, file: Path | None) -> None:
    """Write the rows; those of other cases in the file stay."""
    if file:
        measured = set(map(_cell, rows))
        before = json.loads(file.read_text()) if file.exists() else []
        write_json(file, [row for row in before if _cell(row) not in measured] + rows)


def finish(rows: Rows, file: Path | None = None) -> None:
    """Write the rows; exit with an error if one is wrong. What rivals make of sixteen bits or TF32 is only told."""
    if file:
        write_json(file, rows)
    if not all(row["correct"] or _is_rivals_rounding(row) for row in rows):
        sys.exit("a result is wrong: its time is not reported")


def _is_rivals_rounding(row: Row) -> bool:
    ours = row["implementation"].startswith("dmgan_fast")
    return not ours and row.get("precision", "fp32") != "fp32"


# -------------------------------------------------------------------------------------------------------------- tables


@dataclass(frozen=True)
class Table:
    """Heads and lines, which may be shorter; for the terminal, for Markdown, and for templates of pages."""

    heads: Sequence[str]
    lines: Sequence[Sequence[Any]]

    @property
    def cells(self) -> list[list[str]]:
        """As strings, filled up."""
        return [[*map(str, line), *[""] * (len(self.heads) - len(line))] for line in self.lines]

    def markdown(self) -> str:
        lines = [f"| {' | '.join(line)} |" for line in (self.heads, *self.cells)]
        return "\n".join([lines[0], "|" + "---|" * len(self.heads), *lines[1:]])

    def print(self, title: str = "") -> None:
        table = RichTable(*self.heads, title=title)
        for line in self.cells:
            table.add_row(*line)
        Console(width=120).print(table)


def mib(size: int | None, digits: int = 1) -> str:
    return "" if size is None else f"{size / 2**20:.{digits}f}"


def spread_of(row: Row, unit: float = 1.0) -> str:
    """The median with percentiles, in milliseconds or ``unit`` of them."""
    median, low, high = (row[f"{name}_ms"] / unit for name in ("median", "p20", "p80"))
    return f"{median:.2f} ({low:.2f}–{high:.2f})"


def case_table(rows: Rows) -> Table:
    """One case: a line for each implementation; of an op forward + backward, with forward alone beside it."""
    main = rows[-1]["direction"]
    both = len({row["direction"] for row in rows}) == 2
    heads = ["implementation", *(["forward ms"] if both else []), f"{main.replace('+', ' + ')} ms (p20–p80)"]
    times = {(row["implementation"], row["direction"]): row.get("median_ms") for row in rows}
    against = times.get((baseline(rows), main))
    lines = []
    for row in (row for row in rows if row["direction"] == main):
        cells = [row["implementation"]]
        if row.get("median_ms"):
            cells += [f"{times[row['implementation'], 'forward']:.2f}"] if both else []
            cells += [spread_of(row), f"{against / row['median_ms']:.2f}" if against else ""]
            cells += [mib(row.get("saved_bytes")), mib(row.get("peak_bytes"))]
        else:
            cells += ["out of memory" if row.get("out_of_memory") else "wrong result: not timed"]
        lines.append(cells)
    return Table([*heads, "× authors", "saved MiB", "peak MiB"], lines)
