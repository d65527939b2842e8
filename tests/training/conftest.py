"""Runs small enough to repeat: a folder of drawn pictures, and settings for it."""

import json
import shutil

import pytest
import torch
from PIL import Image, ImageDraw

from dmgan_fast.runs.checkpoints import checkpoint_file, load_checkpoint
from dmgan_fast.runs.config import PretrainConfig, TrainConfig
from dmgan_fast.runs.presets import build_config
from dmgan_fast.training.damsm import pretrain
from dmgan_fast.training.trainer import train

COLOURS = ("red", "green", "blue", "yellow")
SHAPES = ("circle", "square")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Eight coloured shapes, each twice: once for training, once held out."""
    folder = tmp_path_factory.mktemp("pictures")
    lines = []
    for split in ("train", "test"):
        for number, (colour, shape) in enumerate((c, s) for c in COLOURS for s in SHAPES):
            picture = Image.new("RGB", (64, 64), "white")
            draw = ImageDraw.Draw(picture)
            (draw.ellipse if shape == "circle" else draw.rectangle)((12, 12, 52, 52), fill=colour)
            name = f"{split}-{colour}-{shape}.png"
            picture.save(folder / name)
            said = [f"a {colour} {shape}", f"one {shape} in {colour}"]
            lines.append({"image": name, "captions": said, "class_id": number, "split": split})
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def pretrain_config(pictures, **loop):
    values = {
        "data": {"source": str(pictures), "max_words": 4},
        "word_channels": 8,
        "embedding_channels": 6,
        "image_encoder": {"kind": "compact", "channels": 8, "image_size": 32, "base_channels": 2},
        "image_size": 32,
        "loop": {"steps": 3, "batch_size": 4, "log_every": 1, "sample_every": 100, "checkpoint_every": 100} | loop,
    }
    return build_config(PretrainConfig, values=values)


def train_config(pictures, encoders, overrides=(), **loop):
    values = {
        "encoders": str(encoders),
        "data": {"source": str(pictures), "max_words": 4},
        "generator": {
            "image_sizes": [64, 128],
            "base_channels": 2,
            "word_channels": 8,
            "condition_channels": 4,
            "noise_channels": 4,
            "residual_blocks": 1,
        },
        "discriminator_channels": 2,
        "loop": {"steps": 5, "batch_size": 3, "log_every": 1, "sample_every": 100, "checkpoint_every": 100} | loop,
    }
    return build_config(TrainConfig, values=values, overrides=overrides)


@pytest.fixture(scope="session")
def encoders(pictures, tmp_path_factory):
    """A finished pretraining."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("encoders")
    pretrain(pretrain_config(pictures), out)
    return out


def measured_config(pictures, encoders, **loop):
    return train_config(pictures, encoders, **{"steps": 4, "checkpoint_every": 1, "keep_checkpoints": 9} | loop)


@pytest.fixture(scope="session")
def measured_run(pictures, encoders, tmp_path_factory):
    """Four steps, a checkpoint of each, measured at the second and the last."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("run")
    train(measured_config(pictures, encoders, measure_every=2), out)
    return out


def averaged(run, step):
    state = load_checkpoint(checkpoint_file(run / "checkpoints", step), "gan")["task"]["train_step"]["average"]
    return {key.removeprefix("module."): value for key, value in state.items()}


@pytest.fixture
def begun(pictures, encoders, tmp_path):
    """A run of two steps whose data and encoders are its own, to be moved."""
    shutil.copytree(pictures, tmp_path / "data")
    shutil.copytree(encoders, tmp_path / "damsm")
    train(train_config(tmp_path / "data", tmp_path / "damsm", steps=2), tmp_path / "run")
    return tmp_path
