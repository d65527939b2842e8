"""Every op's benchmark: correctness first, then interleaved runs. ``--only memory_path`` runs one of them."""

from __future__ import annotations

import sys

import torch

from benchmarks.common import Target, case_table, environment, finish, parser_of
from benchmarks.harness import TOLERANCE, measure
from benchmarks.ops import all_cases


def main() -> None:
    parser = parser_of(__doc__, repeats=21)
    parser.add_argument("--only", default="", help="run the cases whose op and name contain this")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=[str(dtype).split(".")[1] for dtype in TOLERANCE], default="float32")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no GPU: PyTorch sees no CUDA device")
    target = Target(arguments.device, getattr(torch, arguments.dtype))
    machine, rows = environment(target), []
    torch.manual_seed(0)
    for case in all_cases(target):
        name = f"{case.op}: {case.name}"
        if arguments.only in name:
            found = measure(case, arguments.repeats, target, machine)
            case_table(found).print(name)
            rows += found
    finish(rows, arguments.json)


if __name__ == "__main__":
    main()
