"""Whole evaluations: what is reported, what is left out and why, going on after a stop, several processes."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch

from dmgan_fast import cli
from dmgan_fast.data import Vocabulary, open_dataset
from dmgan_fast.errors import CheckpointError, DataError, InputError, Interrupted
from dmgan_fast.evaluation import evaluate, extractors, frechet_distance, kernel_distance, r_precision, sources, store
from dmgan_fast.evaluation.sources import GeneratedImages
from dmgan_fast.sampling.sampler import Sampler
from tests.evaluation.runs import COUNT, results


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(store, "CHUNK", 50)


def test_every_figure_is_its_formula_on_the_pictures_drawn(config, trained, encoders, pictures, tmp_path):
    names = ("fid-damsm", "kid-damsm", "r-precision", "r-precision-official")
    report = evaluate(config(metrics=names), tmp_path / "out")
    sampler = Sampler.from_pretrained(trained)
    dataset = open_dataset(pictures, "test", image_sizes=(128,), vocabulary=sampler.vocabulary)
    drawn = GeneratedImages(sampler, dataset, weights="", count=COUNT, seed=0, max_words=25, batch_size=25)
    damsm = extractors.DAMSMFeatures(encoders / "weights")
    fake = damsm(drawn.images(range(COUNT)))["features"].double()
    real = damsm(sources.RealImages(dataset).images(range(8)))["features"].double()
    fid = frechet_distance(fake.mean(0), torch.cov(fake.t()), real.mean(0), torch.cov(real.t()))
    words = [damsm.vocabulary.encode(said)[0] for said in drawn.captions]
    sentences, got = damsm.sentences(words), results(report)
    assert got["fid-damsm"] == (pytest.approx(fid, rel=1e-5), None)
    assert got["kid-damsm"] == pytest.approx(kernel_distance(fake, real, subset_size=8), rel=1e-4)
    for name, slicing in (("r-precision", "exact"), ("r-precision-official", "official")):
        precision = r_precision(fake, sentences, class_ids=drawn.class_ids, slicing=slicing)
        assert got[name] == pytest.approx(precision, rel=1e-5)
    assert tuple(got) == names


def test_metrics_whose_weights_are_missing_are_left_out_and_it_is_said_what_to_fetch(config, tmp_path):
    report = evaluate(config(inception=str(tmp_path)), tmp_path / "out")
    assert set(report["left_out"]) == {"is-tf", "is-birds", "fid-paper", "fid-tf", "kid-tf"}
    assert f"inception_v3_google-0cc3c7bd.pth and put it into {tmp_path}" in report["left_out"]["fid-paper"]
    assert "--classifier FILE" in report["left_out"]["is-birds"]


def test_metrics_of_every_network_with_all_weights(config, inception, tmp_path):
    """Twelve pictures, because Inception and the root of a matrix of 2048 take their time."""
    classifier = tmp_path / "birds.pth"
    state = torch.load(inception / extractors.TORCHVISION_INCEPTION.names[0], weights_only=True)
    torch.save(state | {"fc.weight": state["fc.weight"][:5], "fc.bias": state["fc.bias"][:5]}, classifier)
    names = ["is-tf", "is-coco", "is-birds", "fid-paper", "kid-tf"]
    few = {"count": 12, "metrics": names, "inception": str(inception), "classifier": str(classifier)}
    report = evaluate(config(**few), tmp_path / "out")
    got = results(report)
    assert list(got) == names  # in the order of the table, whatever was asked for first
    assert report["left_out"] == {}
    assert all(1 <= got[name][0] <= 2 for name in names[:3])  # of one or two pictures a split
    assert got["fid-paper"][0] > 0
    assert np.isfinite(got["kid-tf"]).all()
    assert set(report["extractors"]) == {"tf", "tf-pil", "classifier", "torchvision"}
    notes = {metric["name"]: metric["warnings"] for metric in report["metrics"]}
    few_of = [note.split(" images are too few for 2048 features")[0] for note in notes["fid-paper"]]
    assert sorted(few_of) == ["12 generated", "8 real"]
    assert "can't score above 2, and there are 1008 classes" in notes["is-tf"][0]


def test_a_stopped_evaluation_goes_on_where_it_was_with_the_same_result(config, tmp_path, monkeypatch):
    whole = evaluate(config(), tmp_path / "whole")
    seen = []
    draw = GeneratedImages.images

    def stop_in_the_third_chunk(self, rows):
        seen.append(rows.start)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return draw(self, rows)

    monkeypatch.setattr(GeneratedImages, "images", stop_in_the_third_chunk)
    with pytest.raises(Interrupted, match="the same command continues from there"):
        evaluate(config(), tmp_path / "parts")
    assert not (tmp_path / "parts" / "evaluation.json").exists()
    parts = evaluate(config(), tmp_path / "parts")
    assert seen == [0, 50, 100, 100]
    assert parts == whole
    assert evaluate(config(), tmp_path / "parts") == whole  # a finished one is only read
    assert len(seen) == 4


def test_another_evaluation_is_not_overwritten(config, tmp_path):
    evaluate(config(), tmp_path / "out")
    before = (tmp_path / "out" / "evaluation.json").read_bytes()
    for other in ({"seed": 1}, {"count": COUNT + 1}, {"metrics": ("fid-damsm",)}):
        with pytest.raises(InputError, match="holds an evaluation of other images or settings; give another --out"):
            evaluate(config(**other), tmp_path / "out")
    assert (tmp_path / "out" / "evaluation.json").read_bytes() == before


def test_features_of_real_pictures_are_computed_once(config, tmp_path, monkeypatch):
    calls = Counter()
    read = sources.RealImages.images

    def counted(self, rows):
        calls["chunks"] += 1
        return read(self, rows)

    monkeypatch.setattr(sources.RealImages, "images", counted)
    evaluate(config(), tmp_path / "one")
    evaluate(config(seed=1), tmp_path / "other")
    assert calls["chunks"] == 1


def test_the_folder_of_saved_pictures_gives_the_same_figures(config, pictures, encoders, tmp_path):
    drawn = evaluate(config(save_images=True), tmp_path / "drawn")
    settings = {"weights": None, "images": str(tmp_path / "drawn" / "images"), "count": None}
    settings |= {"data": str(pictures), "damsm": str(encoders)}
    found = evaluate(config(**settings), tmp_path / "found")
    assert results(found) == results(drawn)
    assert found["generated"]["count"] == COUNT
    with pytest.raises(InputError, match="of other images or settings"):
        evaluate(config(**settings | {"seed": 1}), tmp_path / "found")
    captions = tmp_path / "drawn" / "images" / "captions.jsonl"
    captions.write_text(captions.read_text().replace("one", "a"))
    with pytest.raises(InputError, match="of other images or settings"):
        evaluate(config(**settings), tmp_path / "found")
    assert "found in" in found["generated"]["what"]


def test_a_folder_without_captions_has_no_r_precision(config, pictures, encoders, tmp_path):
    evaluate(config(save_images=True), tmp_path / "drawn")
    folder = tmp_path / "drawn" / "images"
    (folder / "captions.jsonl").unlink()
    settings = {"weights": None, "images": str(folder), "count": None, "data": str(pictures), "damsm": str(encoders)}
    report = evaluate(config(**settings), tmp_path / "found")
    assert set(results(report)) == {"fid-damsm", "kid-damsm"}
    assert "captions.jsonl or captions.csv" in report["left_out"]["r-precision"]


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"metrics": ("fid",)}, InputError, "metrics: 'fid' is not one of is-tf, is-coco"),
        (
            {"metrics": ("fid-paper",), "inception": "."},
            CheckpointError,
            "fid-paper: torchvision's Inception-v3 not found",
        ),
        ({"metrics": ("is-birds",)}, CheckpointError, "is-birds: no classifier given"),
        (
            {"metrics": ("r-precision",), "count": 100},
            InputError,
            "needs 99 captions of other classes beside its own, one has 87",
        ),
        ({"metrics": ("is-tf",), "count": 9}, InputError, "is-tf: 10 splits need as many images, got 9"),
        ({"weights": None, "images": "somewhere"}, InputError, "images need data, whose test split"),
        ({"images": "somewhere"}, InputError, "weights to generate with, or images to evaluate, not both"),
        ({"weights": "nowhere"}, CheckpointError, "no weights at 'nowhere'"),
        ({"damsm": "nowhere"}, CheckpointError, "no weights at 'nowhere': vocabulary.json, image_encoder"),
        ({"data": "nowhere"}, DataError, "no data set at 'nowhere'"),
        ({"device": "cuda:1"}, InputError, "device: PyTorch sees no CUDA device here, got 'cuda:1'"),
        ({"device": "gpu"}, InputError, "device must be auto, cpu, cuda or cuda:N, got 'gpu'"),
        ({"statistics": {"kid-damsm": "x.npz"}}, InputError, "'kid-damsm' is not one of the FIDs asked for, fid-paper"),
        ({"statistics": {"fid-damsm": "x.npz"}}, DataError, r"x\.npz is not an \.npz file with mu and sigma"),
    ],
)
def test_what_cannot_be_evaluated_is_said_before_any_work(config, tmp_path, monkeypatch, values, error, message):
    monkeypatch.setattr(GeneratedImages, "images", lambda *_: pytest.fail("something was drawn"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(error, match=message):
        evaluate(config(**values), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_of_no_run_need_data_to_be_named(config, trained, tmp_path):
    """A bare bundle does not say what it was trained on, and is not compared with the demo set for want of it."""
    bare = tmp_path / "bare"
    shutil.copytree(trained / "weights", bare)
    with pytest.raises(InputError, match="bare is not part of a training run, so data must be named: --data DIR"):
        evaluate(config(weights=str(bare)), tmp_path / "out")


def test_captions_that_the_encoders_cannot_read_are_named_before_any_work(config, encoders, tmp_path, monkeypatch):
    strangers = tmp_path / "strangers"
    shutil.copytree(encoders / "weights", strangers)
    size = len(Vocabulary.load(strangers / "vocabulary.json"))
    words = Vocabulary(["<end>", *(f"zebra{k}" for k in range(1, size))])
    words.save(strangers / "vocabulary.json")
    for name in ("text_encoder", "image_encoder"):  # encoders that were trained with these words
        file = strangers / name / "config.json"
        values = json.loads(file.read_text()) | {"vocabulary_fingerprint": words.fingerprint}
        file.write_text(json.dumps(values))
    monkeypatch.setattr(GeneratedImages, "images", lambda *_: pytest.fail("something was drawn"))
    with pytest.raises(DataError, match="the DAMSM encoders know no word of"):
        evaluate(config(damsm=str(strangers)), tmp_path / "out")


def test_features_that_are_not_finite_name_the_picture(config, tmp_path, monkeypatch):
    look = extractors.DAMSMFeatures.__call__

    def spoil(self, pictures):
        outputs = look(self, pictures)
        spoilt = outputs["features"].clone()
        spoilt[3] = torch.inf
        return {"features": spoilt}

    monkeypatch.setattr(extractors.DAMSMFeatures, "__call__", spoil)
    with pytest.raises(InputError, match="features of image 3 by damsm are not finite"):
        evaluate(config(), tmp_path / "out")


def test_the_command_prints_figures_warnings_and_what_was_left_out(trained, tmp_path, monkeypatch, capsys):
    arguments = ["--weights", trained, "--count", COUNT, "--cache", tmp_path / "cache", "--out", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", ["dmgan-fast", "evaluate", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0
    out, err = capsys.readouterr()
    assert "R-precision % (DAMSM): " in out
    assert "  warning: 8 real images are too few for 8 features" in out
    assert "left out is-tf, fid-tf, kid-tf: TensorFlow's Inception" in err
    assert "generated images" in err
    assert out.splitlines()[-2:] == [str(tmp_path / "out" / name) for name in ("evaluation.json", "evaluation.md")]


def test_two_processes_report_what_one_reports(trained, tmp_path):
    """300 pictures are three chunks of 128: two for the first process, one for the other."""

    def run(out, *launcher):
        command = [
            sys.executable,
            *launcher,
            "-m",
            "dmgan_fast",
            "evaluate",
            "--weights",
            str(trained),
            "--count",
            "300",
        ]
        command += ["--cache", str(tmp_path / f"cache-{out}"), "--out", str(tmp_path / out), "--threads", "1"]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr
        return done.stdout, json.loads((tmp_path / out / "evaluation.json").read_text())

    _, one = run("one")
    printed, two = run("two", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    assert printed.count("R-precision % (DAMSM): ") == 1
    assert two["fingerprint"] == one["fingerprint"]
    for name, figures in results(one).items():
        for figure, other in zip(figures, results(two)[name], strict=True):
            assert other == (figure and pytest.approx(figure, rel=1e-9)), name
