"""Where the native convolutions overtake PyTorch's own kernels, by shape, direction and CPU level.

``python -m benchmarks.crossover [--quick]`` times both over a grid of channels, maps and batches, each direction, and
checks the rule of ``auto`` (``dmgan_fast/aten/convolutions.py``) against every cell. ``auto`` is the time of the kernel
that the rule takes, over the better one's: 1 where it chose right.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common import Row, Rows, Table, environment, finish, parser_of, results_of, some_of
from benchmarks.harness import error, spread, take_turns
from dmgan_fast.aten import convolutions, upsample_conv3x3
from dmgan_fast.aten.convolutions import STRIDES, native_backward, native_forward

CHANNELS = ((3, 32), (64, 3), (16, 32), (32, 64), (64, 128), (128, 256), (512, 512), (1024, 1024))
SIDES = (4, 8, 16, 32, 64, 128, 256)
BATCHES = (1, 4, 16, 32)
MOST = 4e9  # direct operations of a cell
MOST_WEIGHTS = 2**26  # elements of weight and map together
DIRECTIONS = ("forward", "gradient of x", "gradient of the weight")
TOLERANCE = 2e-5
Pair = tuple[Callable[[], Tensor], Callable[[], Tensor], bool]  # ours, PyTorch's, whether the rule takes ours


def shapes(quick: bool) -> Iterator[tuple[int, int, int, int]]:
    """Batch, channels in and out, resolution."""
    for (inputs, outputs), side, batch in itertools.product(CHANNELS, SIDES, BATCHES):
        work = 18 * batch * inputs * outputs * side**2
        small = max(inputs * outputs * 9, batch * max(inputs, outputs) * side**2) <= MOST_WEIGHTS
        if work <= (MOST / 8 if quick else MOST) and small and not (quick and batch in (1, 32)):
            yield batch, inputs, outputs, side


def pairs(op: str, batch: int, inputs: int, outputs: int, side: int) -> dict[str, Pair]:
    """Direction → both implementations and the rule's choice."""
    x = torch.randn(batch, inputs, side, side)
    taps = 4 if op == "conv4x4_stride2" else 3
    weight = torch.randn(outputs, inputs, taps, taps) / (taps**2 * inputs) ** 0.5
    after = 2 * side if op == "upsample_conv3x3" else side // STRIDES[op]
    grad = torch.randn(batch, outputs, after, after)
    pixels = batch * min(side, after) ** 2

    def of(want_x: bool, theirs: bool) -> Tensor:
        wants = (want_x, not want_x)
        if not theirs:
            found = native_backward(op, grad, x, weight, *wants)
        elif op == "upsample_conv3x3":
            found = upsample_conv3x3.transposed_backward(grad, x, weight, *wants)
        else:
            geometry = ([STRIDES[op]] * 2, [1, 1], [1, 1], False, [0, 0], 1)
            found = torch.ops.aten.convolution_backward(grad, x, weight, None, *geometry, [*wants, False])
        return found[0 if want_x else 1]

    def forward() -> Tensor:
        if op == "upsample_conv3x3":
            return upsample_conv3x3.transposed_forward(x, weight)
        return F.conv2d(x, weight, stride=STRIDES[op], padding=1)

    takes_weight = convolutions.runs_weight(op, pixels, inputs, outputs)
    return {
        DIRECTIONS[0]: (lambda: native_forward(op, x, weight), forward, convolutions.runs_forward(op, pixels, inputs)),
        DIRECTIONS[1]: (lambda: of(True, False), lambda: of(True, True), convolutions.runs_input(op, pixels)),
        DIRECTIONS[2]: (lambda: of(False, False), lambda: of(False, True), takes_weight),
    }


def rows_of(op: str, shape: tuple[int, int, int, int], repeats: int, machine: Row) -> Iterator[Row]:
    batch, inputs, outputs, side = shape
    for direction, (ours, theirs, chosen) in pairs(op, *shape).items():
        correct = error(ours(), theirs().double()) <= TOLERANCE
        times = take_turns({"native": ours, "torch": theirs}, repeats)
        medians = {name: min(runs) for name, runs in times.items()}
        best = min(medians.values())
        row = {"op": op, "case": f"B{batch} {inputs}->{outputs} {side}x{side}", "direction": direction}
        row |= {"implementation": "native", "correct": correct, "ratio": medians["torch"] / medians["native"]}
        row |= {"chosen": "native" if chosen else "torch", "auto": medians["native" if chosen else "torch"] / best}
        yield row | spread(times["native"]) | machine


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


def main() -> None:
    parser = parser_of(__doc__, repeats=3)
    parser.set_defaults(json=results_of() / "crossover.json")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller cells, a minute")
    known = tuple(convolutions.CROSSOVERS)
    parser.add_argument("--only", type=some_of(known), default=known, help=f"of {','.join(known)} (default: all)")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    machine = environment()
    chosen = itertools.product(arguments.only, shapes(arguments.quick))
    rows = [row for op, shape in chosen for row in rows_of(op, shape, arguments.repeats, machine)]
    show(rows)
    arguments.json.parent.mkdir(exist_ok=True)
    finish(rows, arguments.json)


if __name__ == "__main__":
    main()
