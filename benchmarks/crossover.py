"""Where the native convolutions overtake PyTorch's own kernels, by shape, direction and CPU level.

``python -m benchmarks.crossover [--level avx2] [--only conv3x3] [--quick]`` times both over a grid of channels, maps
and batches, each direction, and checks the rule of ``auto`` (``dmgan_fast/aten/convolutions.py``) against every cell.
``auto`` is the time of the kernel that the rule takes, over the better one's: 1 where it chose right. Rows of the ops
that are not measured stay in the file.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common import Row, Rows, Table, environment, finish, limited_to, parser_of, results_of, some_of
from benchmarks.harness import error, spread, take_turns
from dmgan_fast import native
from dmgan_fast.aten import convolutions, upsample_conv3x3
from dmgan_fast.aten.convolutions import STRIDES, Crossover, native_backward, native_forward

CHANNELS = ((3, 32), (64, 3), (16, 32), (32, 64), (64, 128), (128, 256), (512, 512), (1024, 1024))
SIDES = (4, 8, 16, 32, 64, 128, 256)
BATCHES = (1, 4, 16, 32)
MOST = 4e9  # direct operations of a cell
MOST_WEIGHTS = 2**26  # elements of weight and map together
DIRECTIONS = ("forward", "gradient of x", "gradient of the weight")
TOLERANCE = 2e-5  # of ours from PyTorch's
BUDGET = 3.0  # of our error in PyTorch's, against float64, beyond that
DOUBTFUL = 1.1  # choices that lose more than this are timed again


def shapes(quick: bool) -> Iterator[tuple[int, int, int, int]]:
    """Batch, channels in and out, resolution."""
    for (inputs, outputs), side, batch in itertools.product(CHANNELS, SIDES, BATCHES):
        work = 18 * batch * inputs * outputs * side**2
        small = max(inputs * outputs * 9, batch * max(inputs, outputs) * side**2) <= MOST_WEIGHTS
        if work <= (MOST / 8 if quick else MOST) and small and not (quick and batch in (1, 32)):
            yield batch, inputs, outputs, side


def after(op: str, side: int) -> int:
    """The result's resolution."""
    return 2 * side if op == "upsample_conv3x3" else side // STRIDES[op]


def pixels_of(op: str, batch: int, side: int) -> int:
    """Of the smaller map, in all of the batch."""
    return batch * min(side, after(op, side)) ** 2


def tensors_of(op: str, batch: int, inputs: int, outputs: int, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """``x``, the weight and the gradient of the result."""
    taps = 4 if op == "conv4x4_stride2" else 3
    x = torch.randn(batch, inputs, side, side)
    weight = torch.randn(outputs, inputs, taps, taps) / (taps**2 * inputs) ** 0.5
    return x, weight, torch.randn(batch, outputs, after(op, side), after(op, side))


def torch_calls(op: str, x: Tensor, weight: Tensor, grad: Tensor) -> list[Callable[[], Tensor]]:
    """PyTorch's own kernel in each direction."""

    def backward(want_x: bool) -> Tensor:
        wants = (want_x, not want_x)
        if op == "upsample_conv3x3":
            found = upsample_conv3x3.transposed_backward(grad, x, weight, *wants)
        else:
            geometry = ([STRIDES[op]] * 2, [1, 1], [1, 1], False, [0, 0], 1)
            found = torch.ops.aten.convolution_backward(grad, x, weight, None, *geometry, [*wants, False])
        return found[0 if want_x else 1]

    def forward() -> Tensor:
        if op == "upsample_conv3x3":
            return upsample_conv3x3.transposed_forward(x, weight)
        return F.conv2d(x, weight, stride=STRIDES[op], padding=1)

    return [forward, lambda: backward(True), lambda: backward(False)]


def native_calls(op: str, x: Tensor, weight: Tensor, grad: Tensor) -> list[Callable[[], Tensor]]:
    """The native kernel in each direction."""
    return [
        lambda: native_forward(op, x, weight),
        lambda: native_backward(op, grad, x, weight, True, False)[0],
        lambda: native_backward(op, grad, x, weight, False, True)[1],
    ]


def is_right(op: str, direction: str, ours: Tensor, theirs: Tensor, tensors: tuple[Tensor, Tensor, Tensor]) -> bool:
    """Whether ours is PyTorch's or, where that sums over millions of pixels, as near to float64 as that is."""
    if error(ours, theirs.double()) <= TOLERANCE:
        return True
    truth = torch_calls(op, *(each.double() for each in tensors))[DIRECTIONS.index(direction)]()
    return error(ours, truth) <= BUDGET * error(theirs, truth)


def chosen(rule: Crossover, pixels: int, inputs: int, outputs: int) -> dict[str, bool]:
    """Direction → whether the rule takes the native kernel."""
    found = rule.runs_forward(pixels, inputs), rule.runs_input(pixels), rule.runs_weight(pixels, inputs, outputs)
    return dict(zip(DIRECTIONS, found, strict=True))


def rows_of(op: str, shape: tuple[int, int, int, int], repeats: int, machine: Row) -> Iterator[Row]:
    batch, inputs, outputs, side = shape
    tensors = tensors_of(op, *shape)
    takes = chosen(convolutions.crossover(op), pixels_of(op, batch, side), inputs, outputs)
    for direction, ours, theirs in zip(DIRECTIONS, native_calls(op, *tensors), torch_calls(op, *tensors), strict=True):
        correct = is_right(op, direction, ours(), theirs(), tensors)
        taken = "native" if takes[direction] else "torch"
        times = take_turns({"native": ours, "torch": theirs}, repeats)
        if auto(times, taken) > DOUBTFUL:  # one interruption of a short run looks the same
            more = take_turns({"torch": theirs, "native": ours}, 3 * repeats)
            times = {name: times[name] + more[name] for name in times}
        row = {"op": op, "case": f"B{batch} {inputs}->{outputs} {side}x{side}", "direction": direction}
        row |= {"implementation": "native", "correct": correct, "ratio": min(times["torch"]) / min(times["native"])}
        yield row | {"chosen": taken, "auto": auto(times, taken)} | spread(times["native"]) | machine


def auto(times: dict[str, list[float]], taken: str) -> float:
    """The shortest time of the kernel that the rule takes, over that of the better one."""
    return min(times[taken]) / min(min(runs) for runs in times.values())


def show(rows: Rows) -> None:
    cells = [[*(row[n] for n in ("op", "case", "direction")), row["ratio"], row["chosen"], row["auto"]] for row in rows]
    heads = ("op", "case", "direction", "ratio", "takes", "auto")
    lines = [[f"{cell:.2f}" if isinstance(cell, float) else cell for cell in line] for line in cells]
    Table(heads, lines).print("PyTorch's time / the native kernel's; what the rule takes, and its time over the best")
    worst = sorted(row["auto"] for row in rows)
    print(
        f"{len(rows)} cells; auto / best: median {worst[len(worst) // 2]:.2f}, worst {worst[-1]:.2f}; "
        f"{sum(value > 1.1 for value in worst)} cells above 1.1"
    )


def kept(file: Path, measured: Collection[str]) -> Rows:
    """Rows that the file has of other ops."""
    return [row for row in json.loads(file.read_text()) if row["op"] not in measured] if file.exists() else []


def main() -> None:
    parser = parser_of(__doc__, repeats=3)
    parser.set_defaults(json=results_of() / "crossover.json")
    parser.add_argument("--level", choices=native.cpu_levels(), default=native.cpu_level(), help="CPU level to measure")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller cells, a minute")
    known = tuple(convolutions.CROSSOVERS["avx2"])
    parser.add_argument("--only", type=some_of(known), default=known, help=f"of {','.join(known)} (default: all)")
    arguments = parser.parse_args()
    if arguments.level != native.cpu_level():  # PyTorch reads its limits as it starts
        command = [sys.executable, "-m", "benchmarks.crossover", *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | limited_to(arguments.level))
    torch.manual_seed(0)
    machine = environment()
    cells = itertools.product(arguments.only, shapes(arguments.quick))
    rows = [row for op, shape in cells for row in rows_of(op, shape, arguments.repeats, machine)]
    show(rows)
    arguments.json.parent.mkdir(exist_ok=True)
    finish([*kept(arguments.json, arguments.only), *rows], arguments.json)


if __name__ == "__main__":
    main()
