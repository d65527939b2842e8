"""The rule that chooses kernels of convolutions, against what was measured at each CPU level."""

import json
import re

import pytest

from benchmarks import crossover
from benchmarks.common import results_of
from dmgan_fast.aten.convolutions import rule_of

MEASURED = ("avx512", "avx2")


def rows_and_choices(level):
    """Rows of a level's committed measurement, and whether the rule takes the native kernel there."""
    for row in json.loads((results_of(level) / "crossover.json").read_text()):
        batch, inputs, outputs, side, _ = map(int, re.findall(r"\d+", row["case"]))
        pixels = crossover.pixels_of(row["op"], batch, side)
        yield row, crossover.chosen(rule_of(row["op"], level), pixels, inputs, outputs)[row["direction"]]


@pytest.mark.parametrize("level", [*MEASURED, "sse2"])
def test_the_rule_takes_no_kernel_that_was_measured_a_quarter_slower(level):
    slower = [
        (row["op"], row["case"], row["direction"], row["ratio"]) for row, takes in rows_and_choices(level) if takes
    ]
    assert slower
    assert [each for each in slower if each[-1] < 1 / 1.25] == []


@pytest.mark.parametrize("level", MEASURED)
def test_all_cells_together_take_hardly_longer_than_by_the_better_kernels(level):
    by_rule = at_best = 0.0
    for row, takes in rows_and_choices(level):
        ours, theirs = row["median_ms"], row["median_ms"] * row["ratio"]
        by_rule += ours if takes else theirs
        at_best += min(ours, theirs)
    assert by_rule <= 1.02 * at_best


def test_ops_that_are_not_measured_keep_their_rows(tmp_path):
    file = tmp_path / "crossover.json"
    assert crossover.kept(file, ["conv3x3"]) == []
    file.write_text(json.dumps([{"op": "conv3x3"}, {"op": "conv4x4_stride2"}]))
    assert crossover.kept(file, ["conv3x3"]) == [{"op": "conv4x4_stride2"}]


def test_the_gate_closes_on_a_wrong_result_and_not_on_one_nearer_to_float64_than_pytorch_s():
    op, direction, tensors = "conv3x3", "forward", crossover.tensors_of("conv3x3", 1, 4, 4, 8)
    exact = crossover.torch_calls(op, *(each.double() for each in tensors))[0]()
    assert crossover.is_right(op, direction, exact.float(), exact.float() * (1 + 1e-4), tensors)
    assert not crossover.is_right(op, direction, exact.float() * (1 + 1e-4), exact.float(), tensors)
