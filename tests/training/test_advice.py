"""Memory that runs out in a training or an evaluation is one paragraph with numbers and the settings that help."""

import re

import pytest
import torch

from dmgan_fast import out_of_memory
from dmgan_fast.errors import OutOfMemory
from dmgan_fast.evaluation import EvaluationConfig, evaluate
from dmgan_fast.evaluation.extractors import DAMSMFeatures
from dmgan_fast.runs.config import TrainConfig
from dmgan_fast.sizes import show_size
from dmgan_fast.training import advice
from dmgan_fast.training.damsm import DAMSMTask, pretrain
from dmgan_fast.training.planning.planner import plan
from dmgan_fast.training.trainer import GANTask, train
from tests.cli.calls import call
from tests.test_out_of_memory import CPU
from tests.training.conftest import pretrain_config, train_config


@pytest.fixture
def little(monkeypatch):
    """100 MiB are free, and no step fits."""
    monkeypatch.setattr(out_of_memory, "free_memory", lambda device: 100 << 20)

    def fail(*_):
        raise RuntimeError(CPU)

    monkeypatch.setattr(GANTask, "step", fail)
    monkeypatch.setattr(DAMSMTask, "step", fail)
    monkeypatch.setattr(DAMSMFeatures, "__call__", fail)


def test_a_step_that_does_not_fit_names_memory_batch_precision_and_plan(pictures, encoders, little, tmp_path):
    config = train_config(pictures, encoders)
    with pytest.raises(OutOfMemory) as caught:
        train(config, tmp_path / "run")
    said = str(caught.value)
    peak = plan(config, batch_size=3, memory_bytes=1 << 40, device="cpu").peak_bytes
    assert f"in a step of 3 images at resolution 128 in fp32 (about {show_size(peak)} needed" in said
    assert "400 MiB asked for last, 100 MiB free" in said
    assert "--memory 80MiB; `dmgan-fast plan --size 128 --batch 3 --dtype fp32 --memory 80MiB --device cpu`" in said
    assert "--batch 2" in said
    assert "--dtype bf16" in said
    assert not (tmp_path / "run" / ".lock").exists()


def test_encoders_that_do_not_fit_name_the_batch(pictures, little, tmp_path):
    with pytest.raises(OutOfMemory, match=r"in a step of 4 images \(400 MiB asked for last, 100 MiB free\).*--batch 2"):
        pretrain(pretrain_config(pictures), tmp_path / "run")


def test_an_evaluation_that_does_not_fit_names_the_batch(encoders, pictures, little, tmp_path):
    from dmgan_fast.sampling.sampler import Sampler

    sampler = Sampler.from_pretrained()
    assert sampler.generator is not None
    settings = {"data": str(pictures), "damsm": str(encoders), "count": 2, "metrics": ("fid-damsm",), "batch_size": 8}
    with pytest.raises(OutOfMemory, match=r"while measuring images, 8 images at once \(.*--batch 2"):
        evaluate(EvaluationConfig(**settings, cache=str(tmp_path / "cache")), tmp_path / "out")


def test_the_advice_that_is_given_can_be_followed(pictures, encoders, monkeypatch, capsys, tmp_path):
    """The command that the paragraph names runs, and --batch is a flag of train."""
    said = advice.training_advice(TrainConfig(), torch.device("cpu"), None)
    command = re.search(r"`dmgan-fast (plan [^`]*)`", said)[1].split()
    status, out, errors = call(monkeypatch, capsys, *command, "--preset", "demo", "--set", "step.damsm_weight=0")
    assert status in (0, 1), errors  # it fits or it does not
    assert "policy" in out
    arguments = ("train", "--preset", "demo", "--batch", 7, "--damsm", tmp_path / "none", "--out", tmp_path / "run")
    status, _, errors = call(monkeypatch, capsys, *arguments)
    assert status == 2
    assert "no weights at" in errors
