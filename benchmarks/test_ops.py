"""Ops under pytest-benchmark: ``pytest benchmarks --benchmark-only``; a wrong result fails before it is timed.

Implementations run one after another here: for watching ours over time. Claims against rivals come from the runs in
turn of ``python -m benchmarks.ops``.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
import torch

from benchmarks.conftest import target_of
from benchmarks.harness import is_correct, projection, saved_bytes, truth_of
from benchmarks.ops import BENCHMARKS


def test_op(cell: tuple[str, int, str, str], benchmark: Any, request: pytest.FixtureRequest) -> None:
    op, place, name, direction = cell
    target = target_of(request.config)
    torch.manual_seed(0)
    case = next(islice(BENCHMARKS[op](target), place, None))
    function = case.implementations[name]
    assert is_correct(case, function, truth_of(case), target.tolerance), "a wrong result is not timed"

    gradient = projection(case.forward(function))

    def run() -> None:
        case.forward(function) if direction == "forward" else case.both(function, gradient)
        target.synchronize()

    benchmark.group = f"{case.op}: {case.name}, {direction}"
    benchmark.extra_info |= {"implementation": name, "saved_bytes": saved_bytes(case, function)}
    benchmark(run)
