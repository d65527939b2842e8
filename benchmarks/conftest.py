"""Options of ``pytest benchmarks``, and its cells: every case, implementation and direction of ``benchmarks.ops``."""

from __future__ import annotations

import pytest

from benchmarks.common import Target, environment
from benchmarks.harness import DIRECTIONS
from benchmarks.ops import BENCHMARKS
from benchmarks.precision import PRECISIONS, set_precision
from dmgan_fast.metering.dataless import Dataless


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("dmgan_fast")
    group.addoption("--device", choices=("cpu", "cuda"), default="cpu", help="where ops run (default cpu)")
    group.addoption("--precision", choices=list(PRECISIONS), default="fp32", help="of ops (default fp32)")


def target_of(config: pytest.Config) -> Target:
    return Target(config.getoption("--device"), config.getoption("--precision"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Names are taken from cases without data; each test makes its case anew."""
    if "cell" not in metafunc.fixturenames:
        return
    target = target_of(metafunc.config)
    set_precision(target.precision)
    cells = {}
    with Dataless():
        for op, cases in BENCHMARKS.items():
            for place, case in enumerate(cases(target)):
                for name in case.implementations:
                    for direction in DIRECTIONS:
                        cells[f"{case.op}: {case.name}, {name}, {direction}"] = (op, place, name, direction)
    metafunc.parametrize("cell", list(cells.values()), ids=list(cells))


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, object]) -> None:
    machine_info["dmgan_fast"] = environment(target_of(config))
