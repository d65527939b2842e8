"""Drawing 256² images, a batch of 8, without gradients: the authors' evaluation, compiled, ours, folded, compiled."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.authors.step import generate
from benchmarks.common import Rows, case_table, environment, finish, parser_of
from benchmarks.harness import TOLERANCE, allocation_peak, error, spread, take_turns
from benchmarks.models import BIRDS, Models, Setting, batch_of
from dmgan_fast.modules import fold

SAMPLING = replace(BIRDS, name="birds B8 256x256", batch=8)


def implementations(setting: Setting, compiled: bool) -> dict[str, Callable[[], Tensor]]:
    """Name → the largest images."""
    generator = Models.build(setting).generator.eval()
    folded, given = fold(generator), batch_of(setting)
    batch = given["batch"]
    inputs = (given["noise"], batch.sentence, batch.words, batch.padding_mask)
    eps = given["eps"]

    def authors(function: Any) -> Callable[[], Tensor]:
        return lambda: function(generator, *inputs, eps)[0][-1]

    def ours(model: Any) -> Callable[[], Tensor]:
        return lambda: model(*inputs, eps=eps).images[-1]

    found = {"authors": authors(generate)}
    if compiled:
        found["authors+compile"] = authors(torch.compile(generate))
    found |= {"dmgan_fast": ours(generator), "dmgan_fast, folded": ours(folded)}
    if compiled:
        found["dmgan_fast, folded+compile"] = ours(torch.compile(folded))
    return found


def truth(setting: Setting) -> Tensor:
    """The largest images in float64."""
    generator = copy.deepcopy(Models.build(setting).generator).eval().double()
    given = batch_of(setting, dtype=torch.float64)
    batch = given["batch"]
    images = generator(given["noise"], batch.sentence, batch.words, batch.padding_mask, eps=given["eps"]).images
    result: Tensor = images[-1]
    return result


@torch.no_grad()
def rows_of(repeats: int = 5, setting: Setting = SAMPLING, compiled: bool = True) -> Rows:
    """Every row of this benchmark. Correctness is that of two images: float64 takes its time."""
    machine = environment()
    two = replace(setting, batch=2)
    exact = truth(two)
    correct = {
        name: error(function(), exact) <= TOLERANCE[torch.float32]
        for name, function in implementations(two, compiled).items()
    }
    functions = implementations(setting, compiled)
    times = take_turns({name: f for name, f in functions.items() if correct[name]}, repeats)
    rows = []
    for name, function in functions.items():
        row = {"op": "sampling", "case": setting.name, "implementation": name, "direction": "forward"} | machine
        memory = {"peak_bytes": allocation_peak(function, "cpu"), "saved_bytes": None}
        rows.append(row | spread(times.get(name, [])) | memory | {"correct": correct[name]})
    return rows


def main() -> None:
    parser = parser_of(__doc__, repeats=5)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    arguments = parser.parse_args()
    rows = rows_of(arguments.repeats, compiled=not arguments.no_compile)
    case_table(rows).print(f"sampling: {SAMPLING.name}")
    finish(rows, arguments.json)


if __name__ == "__main__":
    main()
