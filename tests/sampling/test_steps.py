"""Any checkpoint of a run is generated from, evaluated and exported."""

import pytest
import torch

from dmgan_fast import compat
from dmgan_fast.errors import CheckpointError, InputError
from dmgan_fast.evaluation import EvaluationConfig, evaluate
from dmgan_fast.runs.checkpoints import checkpoint_file, load_checkpoint
from dmgan_fast.sampling.sampler import Sampler
from tests.cli.calls import call
from tests.training.conftest import averaged


@pytest.mark.parametrize("step", [1, 3])
def test_a_step_generates_with_the_average_of_that_step(measured_run, step):
    for sampler in (
        Sampler.from_pretrained(measured_run, step=step),
        Sampler.from_pretrained(measured_run / "weights", step=str(step)),
        Sampler.from_pretrained(checkpoint_file(measured_run / "checkpoints", step)),
    ):
        own = sampler.generator.state_dict()
        for key, value in averaged(measured_run, step).items():
            assert torch.equal(own[key], value), key
    last = Sampler.from_pretrained(measured_run).generator.state_dict()
    assert any(not torch.equal(last[key], value) for key, value in averaged(measured_run, step).items())


def test_the_last_step_is_what_the_weights_are(measured_run):
    a, b = (
        Sampler.from_pretrained(measured_run, step=step).sample(["a red circle"])[0].images[-1] for step in (None, 4)
    )
    assert torch.equal(a, b)


def test_steps_that_are_not_there_are_refused_with_those_that_are(measured_run, encoders, tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint of that step; there are 1, 2, 3, 4, best \(step \d\)"):
        Sampler.from_pretrained(measured_run, step=5)
    with pytest.raises(InputError, match=r"number of a step or best, got 'last'; there are 1, 2"):
        Sampler.from_pretrained(measured_run, step="last")
    with pytest.raises(CheckpointError, match="is not a run: it has no checkpoints/"):
        Sampler.from_pretrained(tmp_path, step=3)
    with pytest.raises(InputError, match="a checkpoint of one step already; give its run"):
        Sampler.from_pretrained(checkpoint_file(measured_run / "checkpoints", 1), step=1)
    with pytest.raises(CheckpointError, match=r"step-00000003\.pt: generator is neither in this checkpoint nor in"):
        Sampler.from_pretrained(checkpoint_file(encoders / "checkpoints", 3))


def test_evaluation_of_a_step_is_of_that_step_and_says_so(measured_run, pictures, tmp_path):
    settings = {"weights": str(measured_run), "count": 4, "metrics": ("fid-damsm",), "cache": str(tmp_path / "cache")}
    found = {
        step: evaluate(EvaluationConfig(**settings, step=step), tmp_path / str(step))
        for step in (None, "4", "1", "best")
    }
    values = {step: report["metrics"][0]["value"] for step, report in found.items()}
    assert values[None] == values["4"] > 0
    digests = {step: report["generator"]["sha256"] for step, report in found.items()}
    assert len({digests["1"], digests["4"], digests["best"]}) == 3  # the last and the best lie in other files
    assert "step-00000001.pt" in found["1"]["generated"]["what"]
    with pytest.raises(InputError, match="holds an evaluation of other images"):
        evaluate(EvaluationConfig(**settings, step="2"), tmp_path / "1")
    with pytest.raises(InputError, match="--step is of a run"):
        evaluate(EvaluationConfig(step="2", data=str(pictures)), tmp_path / "x")


def test_export_of_a_step_writes_its_generator_and_discriminators(measured_run, tmp_path):
    files = compat.export_bundle(measured_run, tmp_path / "one", step=1)
    assert [file.name for file in files] == ["netG.pth", "netD0.pth", "netD1.pth", "text_encoder.pth"]
    saved = load_checkpoint(checkpoint_file(measured_run / "checkpoints", 1), "gan")["task"]["train_step"]
    drawn = compat.import_generator(compat.load_checkpoint(files[0])).state_dict()
    assert all(torch.equal(drawn[key], value) for key, value in averaged(measured_run, 1).items())
    for file, state in zip(files[1:3], saved["discriminators"], strict=True):
        judge = compat.import_discriminator(compat.load_checkpoint(file)).state_dict()
        assert all(torch.equal(judge[key], value) for key, value in state.items())
    latest = compat.export_bundle(measured_run, tmp_path / "last")
    assert [file.name for file in latest] == [file.name for file in files]


def test_commands_take_a_step(measured_run, monkeypatch, capsys, tmp_path):
    base = ("--weights", measured_run, "--step")
    assert call(monkeypatch, capsys, "sample", "a red circle", *base, 2, "--out", tmp_path / "s")[0] == 0
    assert call(monkeypatch, capsys, "sample", "a red circle", *base, "best", "--out", tmp_path / "b")[0] == 0
    assert call(monkeypatch, capsys, "export", *base, 3, "--out", tmp_path / "e")[0] == 0
    arguments = (*base, 1, "--count", 3, "--metrics", "kid-damsm", "--out", tmp_path / "v")
    assert call(monkeypatch, capsys, "evaluate", *arguments, "--cache", tmp_path / "c")[0] == 0
    status, _, errors = call(monkeypatch, capsys, "sample", "a", *base, 7, "--out", tmp_path / "n")
    assert status == 2
    assert "--step 7" in errors
    assert not (tmp_path / "n").exists()
