"""Runs of a GAN: what they leave, and encoders that do not fit."""

import json
from dataclasses import replace

import pytest

from dmgan_fast.errors import CheckpointError, InputError
from dmgan_fast.training.trainer import train
from tests.training.conftest import train_config


def test_a_run_leaves_logs_samples_and_a_model_card(pictures, encoders, tmp_path):
    train(train_config(pictures, encoders, steps=2, sample_every=1), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["kind"] == "gan"
    assert {file.name for file in (tmp_path / "samples").iterdir()} == {"step-00000001.png", "step-00000002.png"}
    assert list((tmp_path / "tensorboard").iterdir())
    header, *rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert header.startswith("step,seconds,discriminator_64,discriminator_128")
    assert [row.split(",")[0] for row in rows] == ["1", "2"]
    assert "2 steps of 3 images" in (tmp_path / "weights" / "README.md").read_text()
    assert not (tmp_path / "validation.csv").exists()


def test_widths_that_do_not_match_the_encoders_are_refused(pictures, encoders, tmp_path):
    config = train_config(pictures, encoders)
    config = replace(config, generator=replace(config.generator, word_channels=16))
    with pytest.raises(InputError, match=r"generator\.word_channels must be the text encoder's 8, got 16"):
        train(config, tmp_path)
    with pytest.raises(CheckpointError, match=r"no weights at .*text_encoder"):
        train(train_config(pictures, tmp_path), tmp_path / "out")
