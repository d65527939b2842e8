"""``pytest benchmarks``: everything is collected, and what is wrong is not timed. Each in a pytest within this one."""

import json
from importlib import import_module
from pkgutil import iter_modules

import pytest
import torch

from benchmarks import ops
from benchmarks.common import ROOT, Target
from benchmarks.harness import DIRECTIONS, Case
from dmgan_fast.training.dataless import Dataless

ALONE = (str(ROOT / "benchmarks"), "-q", "-p", "no:xdist", "-p", "no:cacheprovider", f"--rootdir={ROOT}")


class Collected:
    def pytest_collection_modifyitems(self, items):
        self.names = [item.name for item in items]


def test_every_case_and_implementation_of_every_op_is_collected_in_both_directions(capsys):
    modules = [import_module(f"benchmarks.ops.{found.name}") for found in iter_modules(ops.__path__)]
    with Dataless():
        cases = [case for module in modules if hasattr(module, "cases") for case in module.cases(Target())]
    expected = {
        f"test_op[{case.op}: {case.name}, {name}, {direction}]"
        for case in cases
        for name in case.implementations
        for direction in DIRECTIONS
    }
    collected = Collected()
    assert pytest.main([*ALONE, "--collect-only"], plugins=[collected]) == 0
    assert len(expected) > 100
    assert set(collected.names) == expected
    assert len(collected.names) == len(expected)


def test_a_wrong_implementation_fails_and_is_not_timed(tmp_path, monkeypatch, capsys):
    def cases(target):
        inputs = target.place({"x": torch.randn(4, 5)})
        implementations = {
            "right": lambda x: x.sin(),
            "wrong result": lambda x: x.sin() * 1.001,
            "wrong gradient": lambda x: x.sin().detach() + 0 * x,
        }
        yield Case("toy", "B4", inputs, {}, (), lambda x: x.sin(), implementations)

    for op in list(ops.BENCHMARKS):
        monkeypatch.delitem(ops.BENCHMARKS, op)
    monkeypatch.setitem(ops.BENCHMARKS, "toy", cases)
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # else nothing is timed
    file = tmp_path / "toy.json"
    options = ["--benchmark-only", f"--benchmark-json={file}", "--benchmark-min-rounds=1", "--benchmark-max-time=0.001"]
    assert pytest.main([*ALONE, *options]) == pytest.ExitCode.TESTS_FAILED
    out = capsys.readouterr().out
    assert "a wrong result is not timed" in out
    assert "4 failed, 2 passed" in out
    written = json.loads(file.read_text())
    timed = {(each["extra_info"]["implementation"], each["group"]) for each in written["benchmarks"]}
    assert timed == {("right", f"toy: B4, {direction}") for direction in DIRECTIONS}
    assert written["machine_info"]["dmgan_fast"]["level"]
