"""Any checkpoint of a run can be drawn from, evaluated and exported; a run measures itself and keeps the best."""

import csv
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from dmgan_fast import compat
from dmgan_fast.data import open_dataset
from dmgan_fast.data.loader import collate
from dmgan_fast.errors import CheckpointError, InputError
from dmgan_fast.evaluation import EvaluationConfig, evaluate, frechet_distance, kernel_distance, r_precision
from dmgan_fast.pictures import to_bytes
from dmgan_fast.training.damsm import pretrain
from dmgan_fast.training.progress import Progress, score
from dmgan_fast.training.sampling import Sampler
from dmgan_fast.training.state import checkpoint_file, load_checkpoint
from dmgan_fast.training.trainer import GANTask, train
from dmgan_fast.training.weights import open_bundle
from tests.cli.calls import call
from tests.training.conftest import pretrain_config, train_config


def config(pictures, encoders, **loop):
    return train_config(pictures, encoders, **{"steps": 4, "checkpoint_every": 1, "keep_checkpoints": 9} | loop)


@pytest.fixture(scope="module")
def run(pictures, encoders, tmp_path_factory):
    """Four steps, a checkpoint of each, measured at the second and the last."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("run")
    train(config(pictures, encoders, measure_every=2), out)
    return out


def averaged(run, step):
    state = load_checkpoint(checkpoint_file(run / "checkpoints", step), "gan")["task"]["train_step"]["average"]
    return {key.removeprefix("module."): value for key, value in state.items()}


def rows(file):
    with file.open() as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("step", [1, 3])
def test_a_step_draws_with_the_average_of_that_step(run, step):
    for sampler in (
        Sampler.from_pretrained(run, step=step),
        Sampler.from_pretrained(run / "weights", step=str(step)),
        Sampler.from_pretrained(checkpoint_file(run / "checkpoints", step)),
    ):
        own = sampler.generator.state_dict()
        for key, value in averaged(run, step).items():
            assert torch.equal(own[key], value), key
    last = Sampler.from_pretrained(run).generator.state_dict()
    assert any(not torch.equal(last[key], value) for key, value in averaged(run, step).items())


def test_the_last_step_is_what_the_weights_are(run):
    a, b = (Sampler.from_pretrained(run, step=step).draw(["a red circle"])[0].images[-1] for step in (None, 4))
    assert torch.equal(a, b)


def test_steps_that_are_not_there_are_refused_with_those_that_are(run, encoders, tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint of that step; there are 1, 2, 3, 4, best \(step \d\)"):
        Sampler.from_pretrained(run, step=5)
    with pytest.raises(InputError, match=r"number of a step or best, got 'last'; there are 1, 2"):
        Sampler.from_pretrained(run, step="last")
    with pytest.raises(CheckpointError, match="is not a run: it has no checkpoints/"):
        Sampler.from_pretrained(tmp_path, step=3)
    with pytest.raises(InputError, match="a checkpoint of one step already; give its run"):
        Sampler.from_pretrained(checkpoint_file(run / "checkpoints", 1), step=1)
    with pytest.raises(CheckpointError, match=r"step-00000003\.pt: generator is neither in this checkpoint nor in"):
        Sampler.from_pretrained(checkpoint_file(encoders / "checkpoints", 3))


def test_evaluation_of_a_step_is_of_that_step_and_says_so(run, pictures, tmp_path):
    settings = {"weights": str(run), "count": 4, "metrics": ("fid-damsm",), "cache": str(tmp_path / "cache")}
    found = {
        step: evaluate(EvaluationConfig(**settings, step=step), tmp_path / str(step))
        for step in (None, "4", "1", "best")
    }
    values = {step: report["metrics"][0]["value"] for step, report in found.items()}
    assert values[None] == values["4"] > 0
    digests = {step: report["generator"]["sha256"] for step, report in found.items()}
    assert len({digests["1"], digests["4"], digests["best"]}) == 3  # the last and the best lie in other files
    assert "step-00000001.pt" in found["1"]["drawn"]["what"]
    with pytest.raises(InputError, match="holds an evaluation of other pictures"):
        evaluate(EvaluationConfig(**settings, step="2"), tmp_path / "1")
    with pytest.raises(InputError, match="--step is of a run"):
        evaluate(EvaluationConfig(step="2", data=str(pictures)), tmp_path / "x")


def test_export_of_a_step_writes_its_generator_and_discriminators(run, tmp_path):
    files = compat.export_bundle(run, tmp_path / "one", step=1)
    assert [file.name for file in files] == ["netG.pth", "netD0.pth", "netD1.pth", "text_encoder.pth"]
    saved = load_checkpoint(checkpoint_file(run / "checkpoints", 1), "gan")["task"]["train_step"]
    drawn = compat.import_generator(compat.load_checkpoint(files[0])).state_dict()
    assert all(torch.equal(drawn[key], value) for key, value in averaged(run, 1).items())
    for file, state in zip(files[1:3], saved["discriminators"], strict=True):
        judge = compat.import_discriminator(compat.load_checkpoint(file)).state_dict()
        assert all(torch.equal(judge[key], value) for key, value in state.items())
    latest = compat.export_bundle(run, tmp_path / "last")
    assert [file.name for file in latest] == [file.name for file in files]


def test_commands_take_a_step(run, monkeypatch, capsys, tmp_path):
    base = ("--weights", run, "--step")
    assert call(monkeypatch, capsys, "sample", "a red circle", *base, 2, "--out", tmp_path / "s")[0] == 0
    assert call(monkeypatch, capsys, "sample", "a red circle", *base, "best", "--out", tmp_path / "b")[0] == 0
    assert call(monkeypatch, capsys, "export", *base, 3, "--out", tmp_path / "e")[0] == 0
    arguments = (*base, 1, "--count", 3, "--metrics", "kid-damsm", "--out", tmp_path / "v")
    assert call(monkeypatch, capsys, "evaluate", *arguments, "--cache", tmp_path / "c")[0] == 0
    status, _, errors = call(monkeypatch, capsys, "sample", "a", *base, 7, "--out", tmp_path / "n")
    assert status == 2
    assert "--step 7" in errors
    assert not (tmp_path / "n").exists()


# ------------------------------------------------------------------------------------------------------------ progress


def test_what_is_measured_follows_the_formulas_on_the_pictures_drawn(pictures, encoders):
    vocabulary = open_bundle(encoders).vocabulary
    held_out = open_dataset(str(pictures), "test", image_sizes=(64, 128), max_words=4, vocabulary=vocabulary)
    task = GANTask(train_config(pictures, encoders, measure_pictures=40), encoders, held_out, held_out)
    with torch.no_grad():  # contrast that an untrained generator has not
        task.train_step.average.module.image_heads[-1].conv.weight *= 1000
    found = task.measure()
    assert found == task.measure()  # the same captions and noise each time
    progress, generator = task.progress, task.train_step.average.module
    assert (progress.real_count, progress.count) == (8, 32)
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


def test_measures_are_logged_and_the_best_weights_kept_with_their_step(run):
    found = rows(run / "measures.csv")
    assert [row["step"] for row in found] == ["2", "4"]
    assert set(found[0]) == {"step", "seconds", "fid", "kid", "r_precision", "chance"}
    best = min(found, key=lambda row: float(row["fid"]))
    kept = json.loads((run / "best" / "best.json").read_text())
    assert str(kept["step"]) == best["step"]
    assert kept["measures"]["fid"] == float(best["fid"])
    saved = load_file(run / "best" / "generator" / "model.safetensors")
    for key, value in averaged(run, kept["step"]).items():
        assert torch.equal(saved[key], value), key


def test_best_is_what_measured_best_not_what_came_last(pictures, encoders, tmp_path, monkeypatch):
    found = iter([5.0, 3.0, 4.0, 3.5])
    monkeypatch.setattr(Progress, "measure", lambda self, generator: {"fid": next(found), "r_precision": 1.0})
    train(config(pictures, encoders, measure_every=1, steps=3), tmp_path)
    assert json.loads((tmp_path / "best" / "best.json").read_text())["step"] == 2
    train(config(pictures, encoders, measure_every=1, steps=4), tmp_path, resume=True)  # remembers what was best
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
        train(config(pictures, encoders, measure_every=every, steps=2), tmp_path / name)
    assert not (tmp_path / "without" / "measures.csv").exists()
    assert not (tmp_path / "without" / "best").exists()
    for key, value in averaged(tmp_path / "with", 2).items():
        assert torch.equal(averaged(tmp_path / "without", 2)[key], value), key
    with pytest.raises(CheckpointError, match=r"kept no best weights; it measured nothing.*there are 1, 2"):
        Sampler.from_pretrained(tmp_path / "without", step="best")


def test_a_generator_that_draws_nan_is_not_measured_and_never_best(pictures, encoders, tmp_path, monkeypatch, caplog):
    held_out = open_dataset(str(pictures), "test", image_sizes=(64, 128), vocabulary=open_bundle(encoders).vocabulary)
    task = GANTask(train_config(pictures, encoders), encoders, held_out, held_out)
    encoder = task.progress.image_encoder.forward
    monkeypatch.setattr(task.progress.image_encoder, "forward", lambda x: tuple(y * torch.nan for y in encoder(x)))
    assert task.measure() == {}
    assert "draws NaN" in caplog.text


def test_pretraining_keeps_the_encoders_that_match_held_out_pictures_best(pictures, tmp_path):
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
