"""Generating 256² images, a batch of 8, without gradients: the authors' evaluation, compiled, ours, folded, compiled.
``--device cuda --precision bf16``: on a GPU, a batch of 64, also compiled with CUDA graphs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.authors.step import generate
from benchmarks.common import Rows, Target, add_target, case_table, environment, finish, parser_of, target_of
from benchmarks.harness import allocation_peak, error, spread, take_turns
from benchmarks.models import BIRDS, Models, Setting, batch_of
from benchmarks.models import tiny as tiny_setting
from benchmarks.precision import autocast
from dmgan_fast.modules import fold

SAMPLING = replace(BIRDS, name="birds B8 256x256", batch=8)
ON_GPU = replace(BIRDS, name="birds B64 256x256", batch=64)
MODES: dict[str, dict[str, str | None]] = {
    "cpu": {"compile": None},
    "cuda": {"compile": None, "compile, reduce-overhead": "reduce-overhead"},
}


def implementations(setting: Setting, target: Target, compiled: bool) -> dict[str, Callable[[], Tensor]]:
    """Name → the largest images."""
    generator = Models.build(setting).generator.eval().to(target.device)
    folded, given = fold(generator), batch_of(setting, device=target.device)
    batch = given["batch"]
    inputs = (given["noise"], batch.sentence, batch.words, batch.padding_mask)
    eps = given["eps"]

    def authors(function: Any) -> Callable[[], Tensor]:
        return _within(target, lambda: function(generator, *inputs, eps)[0][-1])

    def ours(model: Any) -> Callable[[], Tensor]:
        return _within(target, lambda: model(*inputs, eps=eps).images[-1])

    modes = MODES[target.device] if compiled else {}
    found = {"authors": authors(generate)}
    found |= {f"authors+{name}": authors(torch.compile(generate, mode=mode)) for name, mode in modes.items()}
    found |= {"dmgan_fast": ours(generator), "dmgan_fast, folded": ours(folded)}
    found |= {f"dmgan_fast, folded+{name}": ours(torch.compile(folded, mode=mode)) for name, mode in modes.items()}
    return found


def _within(target: Target, draw: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def run() -> Tensor:
        with autocast(target.device, target.precision):
            return draw()

    return run


def truth(setting: Setting, device: str = "cpu") -> Tensor:
    """The largest images in float64."""
    generator = copy.deepcopy(Models.build(setting).generator).eval().to(device, torch.float64)
    given = batch_of(setting, dtype=torch.float64, device=device)
    batch = given["batch"]
    images = generator(given["noise"], batch.sentence, batch.words, batch.padding_mask, eps=given["eps"]).images
    result: Tensor = images[-1]
    return result


@torch.no_grad()
def rows_of(repeats: int = 5, setting: Setting = SAMPLING, compiled: bool = True, target: Target | None = None) -> Rows:
    """Every row of this benchmark. Correctness is that of two images: float64 takes its time."""
    target = target or Target()
    machine = environment(target)
    two = replace(setting, batch=2)
    exact = truth(two, target.device)
    correct = {
        name: error(function(), exact) <= target.tolerance
        for name, function in implementations(two, target, compiled).items()
    }
    functions = implementations(setting, target, compiled)
    times = take_turns({name: f for name, f in functions.items() if correct[name]}, repeats, target.device)
    rows = []
    for name, function in functions.items():
        row = {"op": "sampling", "case": setting.name, "implementation": name, "direction": "forward"} | machine
        memory = {"peak_bytes": allocation_peak(function, target.device), "saved_bytes": None}
        row |= spread(times.get(name, [])) | memory | {"correct": correct[name]}
        if "median_ms" in row:
            row["images_per_second"] = 1e3 * setting.batch / row["median_ms"]
        rows.append(row)
    return rows


def main() -> None:
    parser = parser_of(__doc__, repeats=5)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    add_target(parser)
    arguments = parser.parse_args()
    target = target_of(parser, arguments)
    setting = tiny_setting() if arguments.tiny else ON_GPU if target.device == "cuda" else SAMPLING
    rows = rows_of(arguments.repeats, setting, not (arguments.no_compile or arguments.tiny), target)
    case_table(rows).print(f"sampling: {setting.name}, {target.precision}")
    finish(rows, arguments.json)


if __name__ == "__main__":
    main()
