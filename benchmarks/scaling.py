"""How ops scale: over the batch, the side, words and threads, the authors' form beside ours, forward + backward.

Results are compared with the reference by the ops' own benchmarks; a cell that runs out of memory says so.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import batch_norm_glu, memory_path, upsample_conv3x3, words_similarity
from benchmarks.harness import (
    Case,
    Target,
    environment_of,
    is_out_of_memory,
    limited_memory,
    spread,
    time_case,
    write_rows,
)

OPS: dict[str, Callable[..., Case]] = {
    "memory_path": memory_path.case,
    "batch_norm_glu": batch_norm_glu.case,
    "upsample_conv3x3": upsample_conv3x3.case,
    "words_similarity": words_similarity.case,
}
AXES: dict[str, dict[str, tuple[int, ...]]] = {
    "memory_path": {"batch": (1, 4, 16, 64), "side": (32, 64, 128, 256), "words": (6, 12, 18, 36, 72)},
    "batch_norm_glu": {"batch": (1, 4, 16, 64), "side": (32, 64, 128, 256)},
    "upsample_conv3x3": {"batch": (1, 4, 16), "side": (16, 32, 64, 128)},
    "words_similarity": {"batch": (1, 4, 16, 64), "words": (6, 12, 18, 36)},
}


def _cells(ops: tuple[str, ...]) -> Iterator[tuple[str, str, int, dict[str, int]]]:
    """Op, axis, value, settings."""
    for op in ops:
        for axis, values in AXES[op].items():
            for value in values:
                yield op, axis, value, {axis: value}
        for threads in range(1, torch.get_num_threads() + 1):
            yield op, "threads", threads, {}


def rows_of(
    repeats: int = 5, target: Target | None = None, ops: tuple[str, ...] = tuple(OPS), largest: int = 1 << 30
) -> list[dict[str, Any]]:
    """Every row of this benchmark. ``largest``: leaves larger values of an axis out."""
    target, threads = target or Target(), torch.get_num_threads()
    environment = environment_of(target)
    rows = []
    with limited_memory():
        for op, axis, value, settings in _cells(ops):
            if value > largest:
                continue
            torch.manual_seed(0)
            case = OPS[op](target, **settings)
            torch.set_num_threads(value if axis == "threads" else threads)
            for name in ("authors", *target.backends()):
                row: dict[str, Any] = {
                    "op": op,
                    "case": case.name,
                    "implementation": name,
                    "axis": axis,
                    "value": value,
                }
                row |= {"direction": "forward+backward", "correct": True} | environment
                row["threads"] = torch.get_num_threads()
                try:
                    rows.append(row | spread(time_case(case, case.implementations[name], repeats, target)))
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                    rows.append(row | {"out_of_memory": True})
    torch.set_num_threads(threads)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--ops", default=",".join(OPS), help="some of these (default: all)")
    arguments = parser.parse_args()
    rows = rows_of(arguments.repeats, ops=tuple(arguments.ops.split(",")))
    for row in rows:
        time = "out of memory" if row.get("out_of_memory") else f"{row['median_ms']:10.2f} ms"
        print(f"{row['op']:18} {row['axis']:8} {row['value']:4} {row['implementation']:12} {time}")
    if arguments.json:
        write_rows(arguments.json, rows)


if __name__ == "__main__":
    main()
