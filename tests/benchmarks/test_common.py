"""Where benchmarks run: what is refused before any work, and rows of several precisions side by side."""

import argparse
import importlib
import json
from contextlib import nullcontext

import pytest
import torch

from benchmarks.common import GPU_RESULTS, Target, add_target, finish, results_of_gpu, save, target_of
from benchmarks.precision import PRECISIONS, PRODUCTS

COMMANDS = ("step", "sampling", "memory", "scaling", "ops.__main__")


@pytest.fixture(autouse=True)
def precision_as_before():
    before = [products.fp32_precision for products in PRODUCTS]
    yield
    for products, precision in zip(PRODUCTS, before, strict=True):
        products.fp32_precision = precision


def refused(monkeypatch, capsys, name, *arguments):
    module = importlib.import_module(f"benchmarks.{name}")
    monkeypatch.setattr("sys.argv", [name, *arguments])
    monkeypatch.setattr(torch, "randn", lambda *sizes, **kind: pytest.fail("work has begun"))
    with pytest.raises(SystemExit) as status:
        module.main()
    assert status.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_a_gpu_that_is_not_there_is_named_before_any_work(name, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    said = refused(monkeypatch, capsys, name, "--device", "cuda")
    assert "argument --device: cuda was asked for, but PyTorch sees no CUDA device here; there is cpu" in said


@pytest.mark.parametrize("name", COMMANDS)
def test_tf32_on_a_cpu_is_refused_with_what_there_is(name, monkeypatch, capsys):
    said = refused(monkeypatch, capsys, name, "--precision", "tf32")
    assert "argument --precision: tf32 was asked for, but --device cpu has fp32, bf16, fp16" in said


@pytest.mark.parametrize("tf32", [True, False])
def test_the_precision_that_is_asked_for_is_that_of_pytorchs_products(tf32, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    parser = argparse.ArgumentParser()
    add_target(parser)
    given = parser.parse_args(["--device", "cuda", "--precision", "tf32" if tf32 else "fp32"])
    target = target_of(parser, given)
    assert target == Target("cuda", "tf32" if tf32 else "fp32")
    assert target.dtype == torch.float32
    assert {products.fp32_precision for products in PRODUCTS} == {"tf32" if tf32 else "ieee"}


def test_a_target_is_as_exact_as_its_precision():
    assert {name: Target(precision=name).tolerance for name in PRECISIONS} == {
        "fp32": 2e-5,
        "tf32": 2e-3,
        "bf16": 3e-2,
        "fp16": 4e-3,
    }


def test_rows_of_one_case_in_another_precision_stay(tmp_path):
    file = tmp_path / "rows.json"
    row = {"op": "step", "case": "birds"}
    file.write_text(json.dumps([row | {"ms": 1}]))  # of an old run, which was in fp32
    save([row | {"precision": "bf16", "ms": 2}], file)
    save([row | {"precision": "fp32", "ms": 3}], file)
    assert [(r.get("precision"), r["ms"]) for r in json.loads(file.read_text())] == [("bf16", 2), ("fp32", 3)]


@pytest.mark.parametrize(
    ("implementation", "precision", "fails"),
    [("authors", "fp32", True), ("authors", "bf16", False), ("dmgan_fast", "bf16", True), ("dmgan_fast", "fp32", True)],
)
def test_a_wrong_result_fails_unless_it_is_a_rivals_in_sixteen_bits(implementation, precision, fails):
    row = {"implementation": implementation, "precision": precision, "correct": False}
    with pytest.raises(SystemExit, match="a result is wrong") if fails else nullcontext():
        finish([row])


def test_results_of_a_gpu_have_a_folder_by_its_name():
    assert results_of_gpu("NVIDIA H100 80GB HBM3") == GPU_RESULTS / "nvidia_h100_80gb_hbm3"
