"""The report of an evaluation."""

import json

import pytest
import torch

from dmgan_fast.errors import CheckpointError
from dmgan_fast.evaluation import evaluate, store
from tests.evaluation.runs import COUNT


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(store, "CHUNK", 50)


def test_the_report_says_what_was_measured_with_what(config, tmp_path):
    report = evaluate(config(), tmp_path / "out")
    assert report == json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert report["generated"]["count"] == COUNT
    assert report["real"]["count"] == 8
    assert report["extractors"]["damsm"].startswith("damsm sha256=")
    assert len(report["generator"]["sha256"]) == 64
    assert report["settings"]["seed"] == 0
    assert report["versions"]["torch"] == torch.__version__.split("+")[0]
    assert "too few for 8 features" in report["metrics"][0]["warnings"][0]  # 8 real pictures
    assert "subsets of 8 images, where the standard is 1000" in report["metrics"][1]["warnings"][0]
    page = (tmp_path / "out" / "evaluation.md").read_text()
    assert "| R-precision % (DAMSM) | `r-precision` |" in page
    assert "is-tf, fid-tf, kid-tf: TensorFlow's Inception of 2015-12-05" in page
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"evaluation.json", "evaluation.md"}


def test_a_broken_report_is_named(config, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "evaluation.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"evaluation\.json is not a report"):
        evaluate(config(), tmp_path / "out")
