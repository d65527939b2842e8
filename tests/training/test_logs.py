"""What a run reports while it trains, to TensorBoard and to Weights & Biases: a stand-in, and the client offline."""

import csv
import json
import sys
import time
from dataclasses import replace
from types import ModuleType

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dmgan_fast.config import load_config
from dmgan_fast.errors import InputError
from dmgan_fast.runs.config import TrainConfig
from dmgan_fast.training.logs import open_board
from dmgan_fast.training.trainer import train
from tests.training.conftest import train_config


class WandB(ModuleType):
    """As the client's functions that are used: remembers what it was told."""

    def __init__(self):
        super().__init__("wandb")
        self.starts, self.rows, self.metrics, self.ends = [], [], [], []
        self.__spec__ = type(sys.__spec__)("wandb", None)

    def init(self, **options):
        self.starts.append(options)
        return self

    def define_metric(self, name, step_metric=None):
        self.metrics.append((name, step_metric))

    def log(self, row):
        self.rows.append(row)

    def finish(self, exit_code):
        self.ends.append(exit_code)

    def Image(self, file):
        with open(file, "rb") as stream:
            return stream.read(8)


@pytest.fixture
def wandb(monkeypatch):
    module = WandB()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def rows(file):
    with file.open() as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def run(pictures, encoders, tmp_path_factory):
    """Two steps with a sample after each."""
    out = tmp_path_factory.mktemp("run")
    train(train_config(pictures, encoders, steps=2, sample_every=1, measure_every=2), out)
    return out


def events(folder):
    found = EventAccumulator(str(folder), size_guidance={"images": 0})
    found.Reload()
    return found


def test_tensorboard_has_losses_throughput_gates_measures_and_samples(run):
    board = events(run / "tensorboard")
    losses = rows(run / "metrics.csv")
    assert [event.value for event in board.Scalars("generator")] == pytest.approx(
        [float(r["generator"]) for r in losses]
    )
    assert [event.step for event in board.Images("samples")] == [1, 2]
    assert board.Images("samples")[0].encoded_image_string.startswith(b"\x89PNG")
    speed = [event.value for event in events(run / "tensorboard" / "throughput").Scalars("images_per_second")]
    assert len(speed) == 2
    assert min(speed) > 0
    assert {"writing_gate_1", "response_gate_1"} <= set(events(run / "tensorboard" / "gates").Tags()["scalars"])
    assert "fid" in events(run / "tensorboard" / "measures").Tags()["scalars"]


def test_gates_are_a_table_of_means(run):
    found = rows(run / "gates.csv")
    assert [row["step"] for row in found] == ["1", "2"]
    for row in found:
        assert 0 < float(row["writing_gate_1"]) < 1
        assert 0 < float(row["response_gate_1"]) < 1


def test_weights_and_biases_get_the_same_and_one_run_goes_on(pictures, encoders, tmp_path, wandb):
    config = train_config(pictures, encoders, steps=2, sample_every=1, logger="wandb")
    train(config, tmp_path)
    train(replace(config, loop=replace(config.loop, steps=3)), tmp_path, resume=True)
    first, second = wandb.starts
    assert first["id"] == second["id"] == json.loads((tmp_path / "wandb.json").read_text())["id"]
    assert (first["resume"], first["name"]) == ("allow", tmp_path.name)
    assert first["config"]["loop"]["steps"] == 2
    assert wandb.metrics[:2] == [("step", None), ("*", "step")]
    losses = [(row["step"], row["metrics/generator"]) for row in wandb.rows if "metrics/generator" in row]
    assert losses == [(int(row["step"]), float(row["generator"])) for row in rows(tmp_path / "metrics.csv")]
    assert [row["step"] for row in wandb.rows if "samples" in row] == [1, 2, 3]
    assert all(row["samples"].startswith(b"\x89PNG") for row in wandb.rows if "samples" in row)
    assert [row["step"] for row in wandb.rows if "gates/response_gate_1" in row] == [1, 2, 3]
    assert wandb.ends == [0, 0]
    assert not (tmp_path / "tensorboard").exists()


def test_the_client_itself_writes_a_run_of_this_machine_when_offline(tmp_path, monkeypatch):
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    sheet = tmp_path / "step-1.png"
    Image.new("RGB", (8, 8), "red").save(sheet)
    config = load_config(TrainConfig, {"loop": {"logger": "wandb"}}, where="test")
    with open_board(config, tmp_path, done=0) as board:
        board.scalars("metrics", {"generator": 1.5}, 1)
        board.image("samples", sheet, 1)
    number = json.loads((tmp_path / "wandb.json").read_text())["id"]
    (there,) = (tmp_path / "wandb").glob(f"offline-run-*-{number}")
    (image,) = (there / "files" / "media" / "images").glob("samples*.png")
    assert image.read_bytes() == sheet.read_bytes()
    record, patience = there / f"run-{number}.wandb", time.monotonic() + 60
    while b"metrics/generator" not in record.read_bytes():  # written by the client's own process, when it has time
        assert time.monotonic() < patience, "the client wrote no metric"
        time.sleep(0.1)


def test_a_run_that_fails_is_marked_there(pictures, encoders, tmp_path, wandb, monkeypatch):
    monkeypatch.setattr("dmgan_fast.training.trainer.GANTask.gates", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(train_config(pictures, encoders, steps=2, sample_every=1, logger="wandb"), tmp_path)
    assert wandb.ends == [1]


def test_without_the_client_nothing_begins(pictures, encoders, tmp_path, monkeypatch):
    monkeypatch.setattr("dmgan_fast.training.logs.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"loop\.logger=wandb: Weights & Biases is not installed; `pip install wandb`"):
        train(train_config(pictures, encoders, logger="wandb"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_damaged_note_of_the_run_there_is_named(pictures, encoders, tmp_path, wandb):
    (tmp_path / "wandb.json").write_text("{")
    with pytest.raises(InputError, match=r"wandb\.json does not say which run of Weights & Biases this is"):
        train(train_config(pictures, encoders, logger="wandb"), tmp_path)
    assert wandb.starts == []
