"""Whole runs: exact resume, Ctrl-C, full disk, non-finite losses, and what a run leaves behind."""

import json
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file

from dmgan_fast.errors import CheckpointError, Interrupted, NonFiniteLossError
from dmgan_fast.runs.checkpoints import checkpoint_file, latest_checkpoint, load_checkpoint, steps_of
from dmgan_fast.sampling.sampler import Sampler
from dmgan_fast.training.trainer import GANTask, train
from tests.training.conftest import train_config


def same(one, other, path=""):
    """Equal to the bit, whatever the nesting."""
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, path
        assert torch.equal(one, other), path
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            same(one[key], other[key], f"{path}/{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), path
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            same(a, b, f"{path}/{index}")
    else:
        assert one == other, path


def checkpoint(out, kind="gan"):
    return load_checkpoint(latest_checkpoint(out / "checkpoints"), kind)


def without_time(file):
    return [[cell for k, cell in enumerate(line.split(",")) if k != 1] for line in file.read_text().splitlines()]


ATTNGAN = ("generator.refinement=attention", "spectral_norm=none", "batch_norm=true")


@pytest.mark.parametrize("overrides", [(), ATTNGAN], ids=["DM-GAN", "AttnGAN"])
def test_gan_resumes_bit_exactly_across_an_epoch(pictures, encoders, tmp_path, overrides):
    """8 pictures in batches of 3 make 2 steps an epoch: 5 steps end in the third epoch, 3 in the second."""
    train(train_config(pictures, encoders, overrides), tmp_path / "whole")
    train(train_config(pictures, encoders, overrides, steps=3), tmp_path / "parts")
    torch.manual_seed(123)  # whatever happened in between must not matter
    train(train_config(pictures, encoders, overrides), tmp_path / "parts", resume=True)
    whole, parts = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts")
    assert whole["step"] == parts["step"] == 5
    same(whole["task"], parts["task"])
    same(whole["random"], parts["random"])
    assert without_time(tmp_path / "whole" / "metrics.csv") == without_time(tmp_path / "parts" / "metrics.csv")
    for name in ("generator", "text_encoder"):
        one, other = (load_file(tmp_path / run / "weights" / name / "model.safetensors") for run in ("whole", "parts"))
        same(one, other)
    sampler = Sampler.from_pretrained(tmp_path / "whole")
    assert sampler.generator.config.refinement == ("attention" if overrides else "memory")
    (drawing,) = sampler.sample(["a red circle"], maps=True)
    assert (len(drawing.attention), len(drawing.response_gates)) == (1, 0 if overrides else 1)


def test_another_seed_trains_another_model(pictures, encoders, tmp_path):
    for seed in (0, 1):
        train(train_config(pictures, encoders, steps=1, seed=seed), tmp_path / str(seed))
    one, other = (checkpoint(tmp_path / str(seed))["task"]["train_step"]["generator"] for seed in (0, 1))
    assert not torch.equal(one["initial_stage.projection.weight"], other["initial_stage.projection.weight"])


def test_ctrl_c_saves_and_resume_goes_on(pictures, encoders, tmp_path, monkeypatch):
    step = GANTask.step

    def press(task, batch, epoch):
        losses = step(task, batch, epoch)
        if not (tmp_path / "pressed").exists() and task.steps_seen == 2:
            (tmp_path / "pressed").touch()
            signal.raise_signal(signal.SIGINT)
        task.steps_seen += 1
        return losses

    monkeypatch.setattr(GANTask, "steps_seen", 1, raising=False)
    monkeypatch.setattr(GANTask, "step", press)
    with pytest.raises(Interrupted, match="stopped at step 2; the state is saved, --resume"):
        train(train_config(pictures, encoders), tmp_path / "stopped")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.undo()
    train(train_config(pictures, encoders), tmp_path / "stopped", resume=True)
    train(train_config(pictures, encoders), tmp_path / "whole")
    same(checkpoint(tmp_path / "whole")["task"], checkpoint(tmp_path / "stopped")["task"])


def test_non_finite_loss_stops_with_step_and_pictures_and_keeps_the_last_good_checkpoint(
    pictures, encoders, tmp_path, monkeypatch
):
    step = GANTask.step

    def spoil(task, batch, epoch):
        losses = step(task, batch, epoch)
        task.count = getattr(task, "count", 0) + 1
        if task.count == 3:
            spoil.keys = batch.keys
            losses["generator"] = torch.tensor(torch.nan)
        return losses

    monkeypatch.setattr(GANTask, "step", spoil)
    config = train_config(pictures, encoders, steps=6, log_every=5, checkpoint_every=2)
    with pytest.raises(NonFiniteLossError, match="not finite at step 3") as caught:
        train(config, tmp_path)
    assert all(key in str(caught.value) for key in spoil.keys)
    assert latest_checkpoint(tmp_path / "checkpoints") == checkpoint_file(tmp_path / "checkpoints", 2)


def test_a_run_is_not_overwritten_and_resumes_only_with_its_own_settings(pictures, encoders, tmp_path):
    with pytest.raises(CheckpointError, match="nothing to resume"):
        train(train_config(pictures, encoders), tmp_path, resume=True)
    train(train_config(pictures, encoders, steps=1), tmp_path)
    with pytest.raises(CheckpointError, match=r"already holds a run \(step 00000001\)"):
        train(train_config(pictures, encoders, steps=1), tmp_path)
    other = train_config(pictures, encoders, ["step.damsm_weight=7"], seed=4, steps=2)
    with pytest.raises(CheckpointError, match=r"these differ: step\.damsm_weight, loop\.seed"):
        train(other, tmp_path, resume=True)


def test_a_run_whose_newest_checkpoint_is_damaged_goes_on_from_the_one_before_with_the_same_bits(
    pictures, encoders, tmp_path, caplog
):
    train(train_config(pictures, encoders, steps=3, checkpoint_every=1), tmp_path / "run")
    file = checkpoint_file(tmp_path / "run" / "checkpoints", 3)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)
    train(train_config(pictures, encoders, steps=4), tmp_path / "run", resume=True)
    train(train_config(pictures, encoders, steps=4), tmp_path / "whole")
    assert "going on from step 2" in caplog.text
    same(checkpoint(tmp_path / "whole")["task"], checkpoint(tmp_path / "run")["task"])
    assert without_time(tmp_path / "whole" / "metrics.csv") == without_time(tmp_path / "run" / "metrics.csv")


def test_saving_in_the_background_writes_what_waiting_for_it_writes(pictures, encoders, tmp_path):
    """Training goes on to change what is saved; what is written is of the step."""
    options = {"steps": 4, "checkpoint_every": 1, "keep_checkpoints": 9, "measure_every": 1}
    for background in (True, False):
        loop = {**options, "save_in_background": background}
        train(train_config(pictures, encoders, **loop), tmp_path / str(background))
    one, other = tmp_path / "True", tmp_path / "False"
    for step in range(1, 5):
        files = (checkpoint_file(run / "checkpoints", step) for run in (one, other))
        same(*(load_checkpoint(file)["task"] for file in files))
    for folder in ("weights", "best"):
        files = [run / folder / "generator" / "model.safetensors" for run in (one, other)]
        same(*map(load_file, files))
    best = json.loads((one / "best" / "best.json").read_text())["step"]
    kept = load_checkpoint(checkpoint_file(one / "checkpoints", best))["task"]["train_step"]["average"]
    drawn = load_file(one / "best" / "generator" / "model.safetensors")
    same({name: kept[f"module.{name}"] for name in drawn}, drawn)


def test_the_checkpoint_of_the_best_step_is_kept_beside_the_newest(pictures, encoders, tmp_path):
    config = train_config(pictures, encoders, steps=5, checkpoint_every=1, keep_checkpoints=1, measure_every=1)
    train(config, tmp_path)
    best = json.loads((tmp_path / "best" / "best.json").read_text())["step"]
    assert steps_of(tmp_path / "checkpoints") == sorted({best, 5})


def test_a_run_stopped_between_its_last_checkpoint_and_the_weights_gets_its_weights_on_resuming(
    pictures, encoders, tmp_path
):
    config = train_config(pictures, encoders, steps=2)
    train(config, tmp_path)
    file = tmp_path / "weights" / "generator" / "model.safetensors"
    before = file.read_bytes()
    shutil.rmtree(tmp_path / "weights")
    train(config, tmp_path, resume=True)
    assert file.read_bytes() == before


def test_a_row_that_a_crash_left_half_written_is_told_and_left_out(pictures, encoders, tmp_path, caplog):
    train(train_config(pictures, encoders, steps=2), tmp_path)
    table = tmp_path / "metrics.csv"
    rows = table.read_text().splitlines()
    table.write_text("\n".join([*rows, "1,0."]))
    with caplog.at_level("WARNING", "dmgan_fast.runs"):
        train(train_config(pictures, encoders, steps=3), tmp_path, resume=True)
    assert "metrics.csv:4 is not a whole row and is left out: ['1', '0.'" in caplog.text
    *before, last = table.read_text().splitlines()
    assert before == rows
    assert last.startswith("3,")


def test_a_table_that_is_none_any_more_is_named_and_no_step_is_taken(pictures, encoders, tmp_path):
    train(train_config(pictures, encoders, steps=1), tmp_path)
    (tmp_path / "metrics.csv").write_bytes(b"step,seconds\n\xff\xfe")
    with pytest.raises(CheckpointError, match=r"metrics\.csv is damaged: .*move it away, and --resume goes on"):
        train(train_config(pictures, encoders, steps=2), tmp_path, resume=True)
