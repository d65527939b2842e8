"""Whole runs: exact resume, Ctrl-C, full disk, non-finite losses, and what a run leaves behind."""

import csv
import errno
import json
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from dmgan_fast.data import make_loader, open_dataset
from dmgan_fast.errors import CheckpointError, InputError, Interrupted, NonFiniteLossError
from dmgan_fast.training import state
from dmgan_fast.training.config import PretrainConfig, TrainConfig, build_config
from dmgan_fast.training.damsm import DAMSMTask, pretrain
from dmgan_fast.training.sampling import Sampler
from dmgan_fast.training.state import checkpoint_file, latest_checkpoint, load_checkpoint, save_checkpoint
from dmgan_fast.training.trainer import GANTask, train

from .conftest import pretrain_config, train_config


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
    (drawing,) = sampler.draw(["a red circle"], maps=True)
    assert (len(drawing.attention), len(drawing.response_gates)) == (1, 0 if overrides else 1)


def test_damsm_resumes_bit_exactly_dropout_included(pictures, tmp_path):
    pretrain(pretrain_config(pictures, steps=5), tmp_path / "whole")
    pretrain(pretrain_config(pictures, steps=2), tmp_path / "parts")
    torch.manual_seed(123)
    pretrain(pretrain_config(pictures, steps=5), tmp_path / "parts", resume=True)
    same(checkpoint(tmp_path / "whole", "damsm")["task"], checkpoint(tmp_path / "parts", "damsm")["task"])


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


def test_full_disk_leaves_the_old_checkpoint_intact(tmp_path, monkeypatch):
    old = checkpoint_file(tmp_path, 1)
    save_checkpoint(old, {"kind": "gan", "value": torch.ones(3)}, keep=1)
    bytes_before = old.read_bytes()

    def full(content, file):
        file.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(state.torch, "save", full)
    for target in (old, checkpoint_file(tmp_path, 2)):
        with pytest.raises(CheckpointError, match=r"could not be written, older ones are intact.*No space left"):
            save_checkpoint(target, {"kind": "gan"}, keep=1)
    assert [file.name for file in tmp_path.iterdir()] == [old.name]
    assert old.read_bytes() == bytes_before


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    for step in (1, 2, 10):
        save_checkpoint(checkpoint_file(tmp_path, step), {"kind": "gan"}, keep=2)
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["step-00000002.pt", "step-00000010.pt"]
    assert latest_checkpoint(tmp_path).name == "step-00000010.pt"


def test_checkpoints_of_another_kind_or_content_are_refused(tmp_path):
    file = checkpoint_file(tmp_path, 1)
    save_checkpoint(file, {"kind": "damsm"}, keep=1)
    with pytest.raises(CheckpointError, match="expected a gan checkpoint of format 1, got damsm"):
        load_checkpoint(file, "gan")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        load_checkpoint(file, "damsm")


def test_a_run_is_not_overwritten_and_resumes_only_with_its_own_settings(pictures, encoders, tmp_path):
    with pytest.raises(CheckpointError, match="nothing to resume"):
        train(train_config(pictures, encoders), tmp_path, resume=True)
    train(train_config(pictures, encoders, steps=1), tmp_path)
    with pytest.raises(CheckpointError, match=r"already holds a run \(step 00000001\)"):
        train(train_config(pictures, encoders, steps=1), tmp_path)
    other = train_config(pictures, encoders, ["step.damsm_weight=7"], seed=4, steps=2)
    with pytest.raises(CheckpointError, match=r"these differ: step\.damsm_weight, loop\.seed"):
        train(other, tmp_path, resume=True)


def test_a_run_leaves_logs_samples_and_a_model_card(pictures, encoders, tmp_path):
    train(train_config(pictures, encoders, steps=2, sample_every=1), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["kind"] == "gan"
    assert {file.name for file in (tmp_path / "samples").iterdir()} == {"step-00000001.png", "step-00000002.png"}
    assert list((tmp_path / "tensorboard").iterdir())
    header, *rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert header.startswith("step,seconds,discriminator_64,discriminator_128")
    assert [row.split(",")[0] for row in rows] == ["1", "2"]
    assert "2 steps of 3 pictures" in (tmp_path / "weights" / "README.md").read_text()
    assert not (tmp_path / "validation.csv").exists()


def test_pretraining_measures_retrieval_of_held_out_pictures_in_its_history_and_card(pictures, tmp_path):
    pretrain(pretrain_config(pictures, steps=3, sample_every=2), tmp_path)
    with (tmp_path / "validation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["2", "3"]
    for row in rows:
        assert float(row["chance"]) == 12.5  # 8 held-out pictures, each of a class of its own
        assert 0 < float(row["words"]) < 100
        assert 0 <= float(row["picture_to_caption"]) <= 100
    card = (tmp_path / "weights" / "README.md").read_text()
    assert f"{float(rows[-1]['picture_to_caption']):.1f} % find their caption among 8" in card
    assert f"{float(rows[-1]['caption_to_picture']):.1f} % of captions" in card
    pretrain(pretrain_config(pictures, steps=5, sample_every=2), tmp_path, resume=True)
    with (tmp_path / "validation.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["2", "3", "4", "5"]


def test_retrieval_is_perfect_for_encoders_that_agree_and_counts_every_held_out_picture(pictures):
    config = pretrain_config(pictures, batch_size=3)
    held_out = open_dataset(str(pictures), "test", image_sizes=(32,), max_words=4)
    task = DAMSMTask(config, held_out, held_out)
    agreed = torch.eye(8)
    seen = iter(agreed.split(3)), iter(agreed.split(3))
    task.image_encoder.forward = lambda images: (torch.randn(len(images), 8, 2, 2), next(seen[0]))
    task.text_encoder.forward = lambda captions, lengths: (torch.randn(len(captions), 8, 4), next(seen[1]))
    found = task.validate()
    assert len(found.codes) == 8
    assert found.measures["picture_to_caption"] == found.measures["caption_to_picture"] == 100


def test_pictures_of_one_class_are_not_held_against_each_other(pictures):
    dataset = open_dataset(str(pictures), "train", image_sizes=(32,), max_words=4)
    task = DAMSMTask(pretrain_config(pictures), dataset, dataset)
    batch = next(iter(make_loader(dataset, 4)))
    assert task.step(batch, 0)["total"] > 1
    assert task.step(batch._replace(class_ids=torch.zeros(4, dtype=torch.int64)), 0)["total"] == 0


def test_the_whole_text_encoder_is_clipped(pictures):
    config = replace(pretrain_config(pictures), clip=1e-3)
    dataset = open_dataset(str(pictures), "train", image_sizes=(32,), max_words=4)
    task = DAMSMTask(config, dataset, dataset)
    task.step(next(iter(make_loader(dataset, 4))), 0)
    norm = torch.stack([p.grad.norm() for p in task.text_encoder.parameters()]).norm()
    assert norm <= 1.001e-3
    assert task.text_encoder.embedding.weight.grad.any()
    assert torch.stack([p.grad.norm() for p in task.image_encoder.parameters()]).norm() > 1e-3


def test_widths_that_do_not_match_the_encoders_are_refused(pictures, encoders, tmp_path):
    config = train_config(pictures, encoders)
    config = replace(config, generator=replace(config.generator, word_channels=16))
    with pytest.raises(InputError, match=r"generator\.word_channels must be the text encoder's 8, got 16"):
        train(config, tmp_path)
    with pytest.raises(CheckpointError, match=r"no weights at .*text_encoder"):
        train(train_config(pictures, tmp_path), tmp_path / "out")


def test_presets_have_the_papers_numbers():
    birds, coco = build_config(TrainConfig), build_config(TrainConfig, preset="coco")
    assert (birds.data.max_words, birds.loop.batch_size, birds.step.damsm_weight) == (18, 10, 5.0)
    assert (coco.data.max_words, coco.loop.batch_size, coco.step.damsm_weight) == (12, 16, 50.0)
    assert (birds.generator.residual_blocks, coco.generator.residual_blocks) == (2, 3)
    assert birds.generator.image_sizes == (64, 128, 256)
    damsm = build_config(PretrainConfig)
    assert (damsm.loop.batch_size, damsm.learning_rate, damsm.learning_rate_decay, damsm.clip) == (
        48,
        0.002,
        0.98,
        0.25,
    )


def test_later_settings_win(tmp_path):
    (tmp_path / "c.yaml").write_text("loop:\n  steps: 7\n  seed: 3\n")
    config = build_config(
        TrainConfig, file=tmp_path / "c.yaml", overrides=["loop.steps=9"], values={"loop": {"seed": 5}}
    )
    assert (config.loop.steps, config.loop.seed, config.loop.batch_size) == (9, 5, 10)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loop.stps=3", "unknown key 'loop.stps'; did you mean 'steps'"),
        ("genrator.base_channels=3", "unknown key 'genrator'; did you mean 'generator'"),
        ("generator.base_chanels=3", "did you mean 'base_channels'"),
        ("loop.steps=many", "loop.steps: .*got 'many'"),
        ("loop.batch_size=1", "loop.batch_size: .*got 1"),
        ("generator.image_sizes=[64, 100]", "image_sizes must start at 64 and double"),
        ("loop.steps", "a setting is written key=value, got 'loop.steps'"),
        ("step.damsm_weight=-1", "damsm_weight must be 0 or more, got -1"),
    ],
)
def test_config_errors_name_the_key(override, message):
    with pytest.raises(InputError, match=message):
        build_config(TrainConfig, overrides=[override])


@pytest.mark.parametrize(
    ("content", "message"), [(None, "can't be read"), ("- 1", "expected keys"), ("a: [", "can't be")]
)
def test_broken_config_files_are_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(InputError, match=message):
        build_config(TrainConfig, file=tmp_path / "c.yaml")
