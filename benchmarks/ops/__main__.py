"""Every op's benchmark: correctness first, then interleaved runs. ``--only memory_path`` runs one of them.

``--device cuda --precision bf16`` runs on a GPU, by its own clock, against cuDNN's and PyTorch's fused forms too.
"""

from __future__ import annotations

import torch

from benchmarks.common import Rows, Target, add_target, case_table, environment, finish, parser_of, target_of
from benchmarks.harness import measure
from benchmarks.ops import all_cases, tiny_cases


def rows_of(target: Target, repeats: int, only: str = "", tiny: bool = False) -> Rows:
    """Rows of the cases whose op and name contain ``only``."""
    machine, rows = environment(target), []
    torch.manual_seed(0)
    for case in tiny_cases(target) if tiny else all_cases(target):
        name = f"{case.op}: {case.name}"
        if only in name:
            found = measure(case, repeats, target, machine)
            case_table(found).print(f"{name}, {target.precision}")
            rows += found
    return rows


def main() -> None:
    parser = parser_of(__doc__, repeats=21)
    parser.add_argument("--only", default="", help="run the cases whose op and name contain this")
    add_target(parser)
    arguments = parser.parse_args()
    rows = rows_of(target_of(parser, arguments), arguments.repeats, arguments.only, arguments.tiny)
    if not rows:
        parser.error(f"argument --only: no case has {arguments.only!r} in its op and name")
    finish(rows, arguments.json)


if __name__ == "__main__":
    main()
