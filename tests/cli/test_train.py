"""``train``, ``pretrain`` and ``plan`` on the command line."""

import json
import re

import pytest

from dmgan_fast.errors import Interrupted
from tests.cli.calls import call

PLAN = ("plan", "--preset", "demo", "--batch", "4", "--device", "cpu", "--set", "step.damsm_weight=0")


def test_plan_answers_people_and_programs(monkeypatch, capsys):
    code, text, _ = call(monkeypatch, capsys, *PLAN, "--size", "64", "--memory", "500MiB")
    assert code == 0
    assert re.match(r"64² in fp32, batch 4, 500 MiB: fits \(cpu\)", text)
    assert "policy       checkpointing none" in text
    code, text, _ = call(monkeypatch, capsys, *PLAN, "--size", "128", "--dtype", "bf16", "--memory", "1MiB", "--json")
    assert code == 1
    values = json.loads(text)
    assert values["fits"] is False
    assert (values["resolution"], values["precision"], values["batch_size"]) == (128, "bf16", 4)
    assert {"policy", "peak_bytes", "bytes_per_picture", "largest_batch", "recompute_flops"} <= values.keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--size", "300"), "the resolution must be 64 times a power of two"),
        (("--memory", "lots"), "memory must be written as 24GiB"),
        (("--dtype", "int8"), "step.precision"),
        (("--batch", "1", "--memory", "1GiB"), "batch_size must be at least 2"),
        (("--set", "step.memory.tile_rows=2"), "tile_rows"),
    ],
)
def test_bad_plans_are_refused_in_one_paragraph(monkeypatch, capsys, arguments, message):
    code, _, error = call(monkeypatch, capsys, "plan", "--preset", "demo", *arguments)
    assert code == 2
    assert message in error
    assert "Traceback" not in error


def test_training_into_an_impossible_budget_is_refused_before_any_work(monkeypatch, capsys, tmp_path):
    out = tmp_path / "run"
    code, _, error = call(
        monkeypatch,
        capsys,
        "train",
        "--preset",
        "demo",
        "--memory",
        "1MiB",
        "--set",
        "step.damsm_weight=0",
        "--out",
        str(out),
    )
    assert code == 2
    assert "does not fit into 1MiB: the most frugal policy needs" in error
    assert not out.exists()


def test_ctrl_c_of_a_run_exits_with_130_and_says_how_to_go_on(monkeypatch, capsys, tmp_path):
    def stopped(config, out, *, resume):
        raise Interrupted("stopped at step 2; the state is saved, --resume goes on")

    monkeypatch.setattr("dmgan_fast.training.damsm.pretrain", stopped)
    status, _, errors = call(monkeypatch, capsys, "pretrain", "--out", tmp_path, "--preset", "demo")
    assert status == 130
    assert errors == "dmgan-fast: stopped at step 2; the state is saved, --resume goes on\n"
