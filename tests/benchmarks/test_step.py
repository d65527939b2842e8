"""Steps in every precision: gates, rivals, and what rows tell, on the smallest model."""

import copy
import os
from dataclasses import replace
from functools import partial

import pytest
import torch

from benchmarks import step
from benchmarks.authors.step import AuthorsStep
from benchmarks.common import Target
from benchmarks.models import Models, batch_of, theirs
from benchmarks.models import tiny as tiny_setting
from dmgan_fast.ops._backends import VARIABLE

HALVES = ("bf16", "fp16")


@pytest.fixture(autouse=True)
def few_exact_steps(monkeypatch):
    """Of the part of the gate that no precision changes."""
    monkeypatch.setitem(step.GATE_STEPS, "float64", 2)


@pytest.mark.parametrize("precision", HALVES)
def test_our_first_step_in_sixteen_bits_has_the_authors_losses(precision):
    assert step.gate(tiny_setting(), Target("cpu", precision))


def test_a_gate_closes_on_a_step_that_is_wrong_in_its_precision_alone(monkeypatch):
    right = step.ours

    def wrong(models, config):
        more = 1.2 if config.precision == "bf16" else 1.0
        return right(models, replace(config, damsm_weight=more * config.damsm_weight))

    monkeypatch.setattr(step, "ours", wrong)
    assert step.gate(tiny_setting(), Target("cpu", "fp32"))
    assert not step.gate(tiny_setting(), Target("cpu", "bf16"))


class Replayed:
    """A step whose replays, on a CPU, run it again; ``forgets``: some of them learn nothing."""

    def __init__(self, models, config, forgets=False):
        self.own, self.forgets, self.done = step.ours(models, config), forgets, 0
        self.generator = self.own.generator

    def __call__(self, **inputs):
        self.done += 1
        before = copy.deepcopy(self.own.state_dict())
        losses = self.own(**inputs)
        if self.forgets and self.done > 6:
            self.own.load_state_dict(before)
        return losses


@pytest.mark.parametrize("forgets", [False, True])
def test_the_gate_of_a_graph_closes_on_replays_that_do_not_learn(forgets):
    make = partial(Replayed, forgets=forgets)
    assert step.graph_gate(tiny_setting(), Target(), make) == (not forgets)


@pytest.mark.parametrize("precision", HALVES)
def test_the_authors_step_under_autocast_has_the_losses_of_float64(precision):
    assert step.rival_gate(tiny_setting(), Target("cpu", precision))


def test_the_authors_step_in_sixteen_bits_computes_in_them(monkeypatch):
    seen = set()
    conv2d = torch.nn.functional.conv2d

    def watched(x, weight, *others, **options):
        y = conv2d(x, weight, *others, **options)
        seen.add(y.dtype)
        return y

    setting = tiny_setting()
    rival = theirs(Models.build(setting), setting.config, precision="bf16")
    monkeypatch.setattr(torch.nn.functional, "conv2d", watched)
    losses = rival(**batch_of(setting))
    assert seen == {torch.bfloat16}
    assert {loss.dtype for loss in losses.values()} == {torch.float32}


def test_rows_in_sixteen_bits_tell_images_a_second():
    rows = step.rows_of("birds", 1, compiled=False, target=Target("cpu", "bf16"), tiny=True)
    assert [row["implementation"] for row in rows] == [
        "authors",
        "dmgan_fast",
        "dmgan_fast, keeps ops",
        "dmgan_fast, keeps blocks",
    ], "and none of float32 alone"
    for row in rows:
        assert (row["precision"], row["correct"]) == ("bf16", True)
        assert row["images_per_second"] == pytest.approx(2e3 / row["median_ms"])


def rows_of(monkeypatch, correct=True, **functions):
    """Rows of stand-ins for steps."""
    monkeypatch.setattr(step, "gate", lambda setting, target: correct)
    monkeypatch.setattr(step, "rival_gate", lambda setting, target: correct)
    monkeypatch.setattr(step, "implementations", lambda *given: functions)
    rows = step.rows_of("birds", 1, compiled=False, target=Target("cpu", "bf16"), tiny=True)
    return {row["implementation"]: row for row in rows}


def test_a_wrong_step_is_not_timed(monkeypatch):
    row = rows_of(monkeypatch, correct=False, dmgan_fast=lambda **inputs: None)["dmgan_fast"]
    assert not row["correct"]
    assert not {"median_ms", "images_per_second"} & row.keys()


def test_an_implementation_that_runs_out_of_memory_says_so_and_the_others_run(monkeypatch):
    def greedy(**inputs):
        raise RuntimeError("CUDA out of memory. Tried to allocate 1 GiB")

    rows = rows_of(monkeypatch, greedy=greedy, dmgan_fast=lambda **inputs: None)
    assert rows["greedy"]["out_of_memory"]
    assert "median_ms" not in rows["greedy"]
    assert rows["dmgan_fast"]["median_ms"] > 0


def test_throughput_is_told_by_batch_in_sixteen_bits():
    rows = step.rows_of("throughput", 1, target=Target("cpu", "bf16"), tiny=True)
    assert {(row["implementation"], row["batch"]) for row in rows} == {
        (name, batch) for name in ("authors", "dmgan_fast") for batch in (2, 4)
    }
    assert all(row["images_per_second"] > 0 for row in rows)


def test_on_a_gpu_the_authors_step_is_also_compiled_into_graphs(monkeypatch):
    modes = []
    monkeypatch.setattr(torch, "compile", lambda function, mode=None: modes.append(mode) or function)
    setting = tiny_setting()
    for mode in step.COMPILED["cuda"].values():
        rival = theirs(Models.build(setting), setting.config)
        assert isinstance(rival, AuthorsStep)
        rival.compile(mode)
        # Results of one step may be overwritten by the next, and by nothing before.
        assert (rival.begin is torch.compiler.cudagraph_mark_step_begin) == (mode == "reduce-overhead")
    assert modes == [None] * 3 + ["reduce-overhead"] * 3
    assert step.COMPILED["cuda"].keys() - step.COMPILED["cpu"].keys() == {"authors+compile, reduce-overhead"}


@pytest.mark.parametrize("before", [None, "cpu"])
def test_our_step_on_the_reference_leaves_the_backend_as_it_was(before, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    if before:
        monkeypatch.setenv(VARIABLE, before)
    assert step.OnReference(lambda: os.environ[VARIABLE])() == "reference"
    assert os.environ.get(VARIABLE) == before


def test_a_gpu_takes_the_papers_batch():
    sizes = {device: step.setting_of("birds", Target(device), tiny=False).batch for device in ("cpu", "cuda")}
    assert sizes == {"cpu": 4, "cuda": 10}
