"""Ops in sixteen bits by their command, and rivals of GPUs alone: here on a CPU, where they compute the same."""

import json

import pytest
import torch

from benchmarks.common import Target
from benchmarks.harness import errors, truth_of
from benchmarks.ops import MODULES, __main__, cudnn, memory_path, upsample_conv3x3


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_every_op_is_right_in_sixteen_bits(precision, tmp_path, monkeypatch, capsys):
    file = tmp_path / "rows.json"
    given = ["ops", "--tiny", "--precision", precision, "--repeats", "1", "--json", str(file)]
    monkeypatch.setattr("sys.argv", given)
    __main__.main()
    rows = json.loads(file.read_text())
    assert {row["op"] for row in rows} == {
        "memory_path",
        "attention_read",
        "batch_norm_glu",
        "batch_norm_skip",
        "conv3x3",
        "conv4x4_stride2",
        "upsample_conv3x3",
        "words_similarity",
    }
    ours = [row for row in rows if row["implementation"].startswith("dmgan_fast")]
    assert len(ours) == 2 * 8, "forward, and with backward"
    assert all(row["correct"] and row["median_ms"] > 0 and row["precision"] == precision for row in ours)


def test_a_name_that_no_case_has_is_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["ops", "--tiny", "--only", "memory_paht"])
    with pytest.raises(SystemExit) as status:
        __main__.main()
    assert status.value.code == 2
    assert "argument --only: no case has 'memory_paht' in its op and name" in capsys.readouterr().err


def on_gpu(module, monkeypatch):
    """Cases as a GPU has them, on a CPU: (case, name, function) of implementations that a CPU does not have."""
    monkeypatch.setattr(Target, "place", lambda self, inputs: {k: x.requires_grad_() for k, x in inputs.items()})
    mask = torch.arange(4) >= torch.tensor([[4], [2]])
    monkeypatch.setattr(memory_path, "_mask", lambda batch, words, target: mask)
    here, there = ({case.op: case for case in module.tiny(Target(device))} for device in ("cpu", "cuda"))
    return [
        (case, name, function)
        for op, case in there.items()
        for name, function in case.implementations.items()
        if name not in here[op].implementations and not name.startswith("dmgan_fast")
    ]


@pytest.mark.parametrize("module", [m for m in MODULES if "convolution" in str(m.__doc__) or m is memory_path])
def test_rivals_on_gpus_compute_what_the_reference_does(module, monkeypatch):
    found = on_gpu(module, monkeypatch)
    assert found
    for case, name, function in found:
        assert max(errors(case.both(function), truth_of(case))) <= 2e-5, name


def test_the_identities_of_up_sampling_are_exact_at_odd_sizes():
    case = upsample_conv3x3.case(Target(), batch=2, side=5, channels=6)
    truth = truth_of(case)
    for identity in (upsample_conv3x3.transposed, upsample_conv3x3.by_parity, upsample_conv3x3.by_trial):
        assert max(errors(case.both(identity), truth)) <= 2e-5


def test_kernels_are_chosen_by_trial_in_both_directions_and_the_setting_goes_back(monkeypatch):
    seen = []
    convolution, backward = torch.ops.aten.convolution, torch.ops.aten.convolution_backward

    def watched(function):
        return lambda *given: seen.append(torch.backends.cudnn.benchmark) or function(*given)

    monkeypatch.setattr(torch.ops.aten, "convolution", watched(convolution))
    monkeypatch.setattr(torch.ops.aten, "convolution_backward", watched(backward))
    x, weight = torch.randn(1, 2, 4, 4, requires_grad=True), torch.randn(3, 2, 3, 3, requires_grad=True)
    cudnn.by_trial(x, weight).sum().backward()
    assert seen == [True, True]
    assert not torch.backends.cudnn.benchmark
