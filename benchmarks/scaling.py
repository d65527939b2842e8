"""How ops scale: over the batch, the resolution, words and threads, the authors' form beside ours, forward + backward.
``--device cuda --precision bf16``: on a GPU, by its clock, each of our backends apart.

Results are compared with the reference by the ops' own benchmarks; a cell that runs out of memory says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch

from benchmarks.common import Row, Rows, Table, Target, add_target, environment, finish, parser_of, some_of, target_of
from benchmarks.harness import Case, limited_memory, noting_out_of_memory, spread, time_case
from benchmarks.ops import batch_norm_glu, memory_path, upsample_conv3x3, words_similarity
from dmgan_fast.errors import BackendError

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

TINY = 6  # the largest value of an axis, to try the command


def _cells(ops: Iterable[str], device: str) -> Iterator[tuple[str, str, int, dict[str, int]]]:
    """Op, axis, value, settings."""
    for op in ops:
        for axis, values in AXES[op].items():
            for value in values:
                yield op, axis, value, {axis: value}
        for threads in range(1, torch.get_num_threads() + 1) if device == "cpu" else ():
            yield op, "threads", threads, {}


def rows_of(
    repeats: int = 5, target: Target | None = None, ops: Iterable[str] = tuple(OPS), largest: int = 1 << 30
) -> Rows:
    """Every row of this benchmark. ``largest``: leaves larger values of an axis out."""
    target, threads = target or Target(), torch.get_num_threads()
    machine = environment(target)
    rows = []
    with limited_memory(target.device):
        for op, axis, value, settings in _cells(ops, target.device):
            if value > largest:
                continue
            torch.manual_seed(0)
            case = OPS[op](target, **settings)
            torch.set_num_threads(value if axis == "threads" else threads)
            for name in ("authors", *target.backends()):
                row: Row = {"op": op, "case": case.name, "implementation": name, "axis": axis, "value": value}
                row |= {"direction": "forward+backward", "correct": True} | machine
                row["threads"] = torch.get_num_threads()
                with noting_out_of_memory(row):
                    try:
                        row |= spread(time_case(case, case.implementations[name], repeats, target))
                    except BackendError as error:
                        row["unavailable"] = str(error)
                rows.append(row)
    torch.set_num_threads(threads)
    return rows


def _time_of(row: Row) -> str:
    if row.get("out_of_memory"):
        return "out of memory"
    return "unavailable" if "unavailable" in row else f"{row['median_ms']:.2f}"


def main() -> None:
    parser = parser_of(__doc__, repeats=5)
    parser.add_argument("--ops", type=some_of(OPS), default=list(OPS), help=f"of {','.join(OPS)} (default: all)")
    add_target(parser)
    arguments = parser.parse_args()
    target = target_of(parser, arguments)
    rows = rows_of(arguments.repeats, target, arguments.ops, TINY if arguments.tiny else 1 << 30)
    names = ("op", "axis", "value", "implementation")
    lines = [[*(row[name] for name in names), _time_of(row)] for row in rows]
    Table([*names, "ms"], lines).print(f"forward + backward, {target.precision}")
    finish(rows, arguments.json)


if __name__ == "__main__":
    main()
