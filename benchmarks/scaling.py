"""How ops scale: over the batch, the side, words and threads, the authors' form beside ours, forward + backward.

Results are compared with the reference by the ops' own benchmarks; a cell that runs out of memory says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch

from benchmarks.common import Row, Rows, Table, Target, environment, finish, parser_of, some_of
from benchmarks.harness import Case, is_out_of_memory, limited_memory, spread, time_case
from benchmarks.ops import batch_norm_glu, memory_path, upsample_conv3x3, words_similarity

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


def _cells(ops: Iterable[str]) -> Iterator[tuple[str, str, int, dict[str, int]]]:
    """Op, axis, value, settings."""
    for op in ops:
        for axis, values in AXES[op].items():
            for value in values:
                yield op, axis, value, {axis: value}
        for threads in range(1, torch.get_num_threads() + 1):
            yield op, "threads", threads, {}


def rows_of(
    repeats: int = 5, target: Target | None = None, ops: Iterable[str] = tuple(OPS), largest: int = 1 << 30
) -> Rows:
    """Every row of this benchmark. ``largest``: leaves larger values of an axis out."""
    target, threads = target or Target(), torch.get_num_threads()
    machine = environment(target)
    rows = []
    with limited_memory():
        for op, axis, value, settings in _cells(ops):
            if value > largest:
                continue
            torch.manual_seed(0)
            case = OPS[op](target, **settings)
            torch.set_num_threads(value if axis == "threads" else threads)
            for name in ("authors", *target.backends()):
                row: Row = {"op": op, "case": case.name, "implementation": name, "axis": axis, "value": value}
                row |= {"direction": "forward+backward", "correct": True} | machine
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
    parser = parser_of(__doc__, repeats=5)
    parser.add_argument("--ops", type=some_of(OPS), default=list(OPS), help=f"of {','.join(OPS)} (default: all)")
    arguments = parser.parse_args()
    rows = rows_of(arguments.repeats, ops=arguments.ops)
    names = ("op", "axis", "value", "implementation")
    times = ("out of memory" if row.get("out_of_memory") else f"{row['median_ms']:.2f}" for row in rows)
    lines = [[*(row[name] for name in names), time] for row, time in zip(rows, times, strict=True)]
    Table([*names, "ms"], lines).print("forward + backward")
    finish(rows, arguments.json)


if __name__ == "__main__":
    main()
