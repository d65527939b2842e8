"""Peaks of memory by the command of ``benchmarks.memory``, on the smallest model, and PyTorch's own budget."""

import json

import torch
from torch._functorch import config

from benchmarks import memory
from benchmarks.common import RESULTS


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["memory", "--tiny", "--repeats", "1", *arguments])
    monkeypatch.setattr(memory, "in_own_process", lambda function, *given: function(*given))
    memory.main()
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]


def test_a_trial_measures_every_precision_and_the_authors(monkeypatch, capsys):
    before = {file: file.read_bytes() for file in RESULTS.glob("*.json")}
    rows = run(monkeypatch, capsys, "--only", "measured")
    peaks = {(row["precision"], row["policy"]): row["measured_bytes"] for row in rows}
    assert peaks.keys() == {(precision, name) for precision in ("fp32", "bf16") for name in ("none", "authors")}
    for precision in ("fp32", "bf16"):
        assert 0 < peaks[precision, "none"] < peaks[precision, "authors"]
    assert {file: file.read_bytes() for file in RESULTS.glob("*.json")} == before, "a trial is not committed"


def test_one_precision_leaves_the_others_out(monkeypatch, capsys):
    rows = run(monkeypatch, capsys, "--precision", "bf16")
    assert {row["precision"] for row in rows} == {"bf16"}
    assert {row["policy"] for row in rows if "ratio_to_none" in row} >= {"authors", "none", "op"}
    assert any("tile" in row and row["measured_bytes"] > 0 for row in rows), "sampling too"


def test_a_gpu_measures_every_policy_and_rival_at_the_papers_batch():
    cells = memory.Choice("cuda").cells()
    rivals = {"authors", "authors+compile", "authors+compile, budget 0.5", "authors+compile, budget 0.2"}
    assert {name for *_, name in cells} == rivals | set(memory.POLICIES)
    assert {(side, batch) for side, batch, *_ in cells} == {(256, 10), (512, 10), (1024, 10)}
    assert {cell[2] for cell in memory.Choice("cuda", ("bf16",)).cells()} == {"bf16"}


def test_a_rival_is_compiled_under_its_budget(monkeypatch):
    seen = []

    def real_step(setting, name, size, device):
        return (lambda: seen.append(config.activation_memory_budget) or torch.empty(8)), {}

    monkeypatch.setattr(memory, "real_step", real_step)
    before = config.activation_memory_budget
    for name in ("authors+compile", "authors+compile, budget 0.2"):
        memory.measured_peak(None, 2, name)
    assert seen == [before] * 3 + [0.2] * 3
    assert config.activation_memory_budget == before


def test_a_process_that_runs_out_of_a_gpus_memory_gives_no_figure(monkeypatch):
    def fails(function, *given):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(memory, "in_own_process", fails)
    assert memory.alone(len) is None
