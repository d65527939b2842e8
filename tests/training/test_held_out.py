"""A run measures itself on held-out captions and keeps the best weights."""

import csv
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from dmgan_fast.data import open_dataset
from dmgan_fast.data.loader import collate
from dmgan_fast.errors import CheckpointError
from dmgan_fast.evaluation import frechet_distance, kernel_distance, r_precision
from dmgan_fast.images import to_bytes
from dmgan_fast.runs.checkpoints import checkpoint_file, load_checkpoint
from dmgan_fast.sampling.bundle import open_bundle
from dmgan_fast.sampling.sampler import Sampler
from dmgan_fast.training.damsm import pretrain
from dmgan_fast.training.held_out import HeldOutMeasures, score
from dmgan_fast.training.trainer import GANTask, train
from tests.training.conftest import averaged, measured_config, pretrain_config, train_config


def rows(file):
    with file.open() as stream:
        return list(csv.DictReader(stream))


# ------------------------------------------------------------------------------------------------------------ progress


def test_what_is_measured_follows_the_formulas_on_the_images_generated(pictures, encoders):
    vocabulary = open_bundle(encoders).vocabulary
    held_out = open_dataset(str(pictures), "test", image_sizes=(64, 128), max_words=4, vocabulary=vocabulary)
    task = GANTask(train_config(pictures, encoders, measure_images=40), encoders, held_out, held_out)
    with torch.no_grad():  # contrast that an untrained generator has not
        task.train_step.average.module.image_heads[-1].conv.weight *= 1000
    found = task.measure()
    assert found == task.measure()  # the same captions and noise each time
    measures, generator = task.held_out_measures, task.train_step.average.module
    assert (measures.real_count, measures.count) == (8, 32)
    batch = collate([held_out[n % 8] for n in range(32)])
    text = task.encode(batch)
    noise = torch.Generator().manual_seed(0)
    z, eps = (torch.randn(32, 4, generator=noise) for _ in range(2))
    encoder = open_bundle(encoders).image_encoder()
    with torch.no_grad():
        drawn = generator(z, text.sentence, text.words, text.padding_mask, eps=eps).images[-1]
        codes, real = (encoder(to_bytes(x).float() / 127.5 - 1)[1].double() for x in (drawn, text.images[-1][:8]))
    fid = frechet_distance(codes.mean(0), torch.cov(codes.t()), real.mean(0), torch.cov(real.t()))
    assert found["fid"] == pytest.approx(fid, rel=1e-3, abs=1e-7)
    assert found["kid"] == pytest.approx(kernel_distance(codes, real, subsets=10, subset_size=8)[0], rel=1e-2, abs=1e-7)
    expected = r_precision(codes, text.sentence, candidates=29, folds=1, class_ids=batch.class_ids)[0]
    assert found["r_precision"] == pytest.approx(expected, abs=1e-6)
    assert found["chance"] == pytest.approx(100 / 29)


def test_measures_are_logged_and_the_best_weights_kept_with_their_step(measured_run):
    found = rows(measured_run / "measures.csv")
    assert [row["step"] for row in found] == ["2", "4"]
    assert set(found[0]) == {"step", "seconds", "fid", "kid", "r_precision", "chance"}
    best = min(found, key=lambda row: float(row["fid"]))
    kept = json.loads((measured_run / "best" / "best.json").read_text())
    assert str(kept["step"]) == best["step"]
    assert kept["measures"]["fid"] == float(best["fid"])
    saved = load_file(measured_run / "best" / "generator" / "model.safetensors")
    for key, value in averaged(measured_run, kept["step"]).items():
        assert torch.equal(saved[key], value), key


def test_best_is_what_measured_best_not_what_came_last(pictures, encoders, tmp_path, monkeypatch):
    found = iter([5.0, 3.0, 4.0, 3.5])
    monkeypatch.setattr(HeldOutMeasures, "measure", lambda self, generator: {"fid": next(found), "r_precision": 1.0})
    train(measured_config(pictures, encoders, measure_every=1, steps=3), tmp_path)
    assert json.loads((tmp_path / "best" / "best.json").read_text())["step"] == 2
    train(
        measured_config(pictures, encoders, measure_every=1, steps=4), tmp_path, resume=True
    )  # remembers what was best
    assert json.loads((tmp_path / "best" / "best.json").read_text())["step"] == 2
    best = Sampler.from_pretrained(tmp_path, step="best").generator.state_dict()
    assert all(torch.equal(best[key], value) for key, value in averaged(tmp_path, 2).items())
    assert {path.name for path in tmp_path.iterdir()} >= {"best", "weights", "checkpoints"}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(("by", "value"), [("fid", -2.0), ("kid", -1.0), ("r_precision", 30.0)])
def test_lower_distances_and_higher_precision_are_better(by, value):
    assert score({"fid": 2.0, "kid": 1.0, "r_precision": 30.0}, by) == value
    assert score({"chance": 1.0}, by) is None


def test_measuring_can_be_switched_off_and_does_not_change_the_training(pictures, encoders, tmp_path):
    for name, every in (("with", 1), ("without", 0)):
        train(measured_config(pictures, encoders, measure_every=every, steps=2), tmp_path / name)
    assert not (tmp_path / "without" / "measures.csv").exists()
    assert not (tmp_path / "without" / "best").exists()
    for key, value in averaged(tmp_path / "with", 2).items():
        assert torch.equal(averaged(tmp_path / "without", 2)[key], value), key
    with pytest.raises(CheckpointError, match=r"kept no best weights; it measured nothing.*there are 1, 2"):
        Sampler.from_pretrained(tmp_path / "without", step="best")


def test_a_generator_that_gives_nan_is_not_measured_and_never_best(pictures, encoders, tmp_path, monkeypatch, caplog):
    held_out = open_dataset(str(pictures), "test", image_sizes=(64, 128), vocabulary=open_bundle(encoders).vocabulary)
    task = GANTask(train_config(pictures, encoders), encoders, held_out, held_out)
    encoder = task.held_out_measures.image_encoder.forward
    monkeypatch.setattr(
        task.held_out_measures.image_encoder, "forward", lambda x: tuple(y * torch.nan for y in encoder(x))
    )
    assert task.measure() == {}
    assert "produces NaN" in caplog.text


def test_pretraining_keeps_the_encoders_that_match_held_out_images_best(pictures, tmp_path):
    pretrain(pretrain_config(pictures, steps=4, sample_every=1, checkpoint_every=1, keep_checkpoints=9), tmp_path)
    losses = {row["step"]: float(row["words"]) + float(row["sentence"]) for row in rows(tmp_path / "validation.csv")}
    kept = json.loads((tmp_path / "best" / "best.json").read_text())
    assert losses[str(kept["step"])] == min(losses.values())
    best = open_bundle(tmp_path, "image_encoder", step="best").image_encoder().state_dict()
    at_step = open_bundle(tmp_path, "image_encoder", step=kept["step"]).image_encoder().state_dict()
    assert all(torch.equal(best[key], value) for key, value in at_step.items())


def test_a_checkpoint_of_a_pretraining_serves_a_training(pictures, encoders, tmp_path):
    pretrain(pretrain_config(pictures, steps=2, checkpoint_every=1, keep_checkpoints=9), tmp_path / "damsm")
    first = checkpoint_file(tmp_path / "damsm" / "checkpoints", 1)
    base = train_config(pictures, encoders, steps=1)
    train(replace(base, encoders=str(first)), tmp_path / "gan")
    used = open_bundle(tmp_path / "gan").text_encoder().state_dict()
    saved = load_checkpoint(first, "damsm")["task"]["text_encoder"]
    assert all(torch.equal(used[key], value) for key, value in saved.items())
