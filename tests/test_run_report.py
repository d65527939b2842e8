"""A run as a page."""

import json
import re
import shutil

import pytest

from dmgan_fast.errors import CheckpointError, InputError
from dmgan_fast.run_report import write_report
from tests.cli.calls import call
from tests.training.conftest import encoders, pictures, pretrain_config, train_config  # noqa: F401
from tests.web.browser import browser, faults_of, needs_chromium  # noqa: F401


@pytest.fixture(scope="module")
def run(pictures, encoders, tmp_path_factory):  # noqa: F811
    """Three steps of a small GAN, with samples, measures and an evaluation beside them."""
    from dmgan_fast.training.trainer import train

    out = tmp_path_factory.mktemp("runs") / "small gan"
    train(train_config(pictures, encoders, steps=3, sample_every=1, measure_every=1), out)
    metric = {"name": "fid-damsm", "title": "FID of a test", "value": 12.345, "std": None, "better": "lower"}
    (out / "evaluation").mkdir()
    (out / "evaluation" / "evaluation.json").write_text(json.dumps({"fingerprint": "x", "metrics": [metric]}))
    return out


@pytest.fixture(scope="module")
def page(run):
    return write_report(run).read_text()


def headings(page):
    return re.findall(r"<h2>(.*?)</h2>", page)


def test_the_page_holds_everything_and_loads_nothing(page):
    assert headings(page) == [
        "Losses", "Throughput", "Gates", "Measures", "Measured while it trained", "Evaluation", "Words and gates",
        "Samples over time", "Memory of a training step", "Environment", "Settings",
    ]  # fmt: skip
    assert not re.findall(r'(?:src|href)="(?!data:image/|#)', page)
    assert page.count("<svg") == 7, "losses, throughput, two gates, three measures"


def test_numbers_are_those_of_the_run(run, page):
    best = json.loads((run / "best" / "best.json").read_text())
    assert f"{best['measures']['fid']:.4g} (step {best['step']})" in page
    assert "3 of 3, 3 images each" in page
    assert "<td>12.35</td>" in page or "<td>12.34</td>" in page
    environment = json.loads((run / "environment.json").read_text())
    assert environment["torch"] in page
    assert environment["device"] in page
    assert re.search(r"in all</th><td>[\d.]+ MiB", page)


def test_samples_are_shown_in_the_order_of_the_run_the_last_always(run, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    sheet = next((copied / "samples").glob("*.png"))
    for step in range(4, 40):
        shutil.copy(sheet, copied / "samples" / f"step-{step:08d}.png")
    steps = [int(step) for step in re.findall(r"<h3>Step (\d+)</h3>", write_report(copied).read_text())]
    assert len(steps) == 8
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == (1, 39)


def test_given_captions_are_generated_with_a_map_for_each_word(run, tmp_path):
    page = write_report(run, tmp_path / "page.html", captions=["a red square"]).read_text()
    assert "<h3>a red square</h3>" in page
    for label in ("64²", "128²", "red", "square", "response gate"):
        assert f'<img alt="{label}"' in page
    with pytest.raises(InputError, match="has no word that the model knows"):
        write_report(run, tmp_path / "other.html", captions=["zzz"])
    assert not (tmp_path / "other.html").exists()


def test_a_run_without_its_data_or_weights_says_so_and_shows_the_rest(run, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(run, copied, ignore=shutil.ignore_patterns("weights", "checkpoints", "environment.json"))
    page = write_report(copied).read_text()
    assert "Nothing was generated: no weights at" in page
    assert "This run does not say: it is of an older version." in page
    assert "Losses" in headings(page)


def test_encoders_have_curves_and_samples(encoders):  # noqa: F811
    page = write_report(encoders).read_text()
    assert headings(page) == ["Losses", "Throughput", "Held-out images", "Samples over time", "Environment", "Settings"]


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"report: '.*' is not the folder of a run: it has no config\.json of one"):
        write_report(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(InputError, match="is not the folder of a run"):
        write_report(tmp_path)


def test_a_damaged_evaluation_is_named(run, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    (copied / "evaluation" / "evaluation.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"evaluation\.json is not a report of an evaluation"):
        write_report(copied)


def test_the_command_writes_into_the_run_or_where_it_is_told(run, tmp_path, monkeypatch, capsys):
    status, out, _ = call(
        monkeypatch, capsys, "report", run, "--out", tmp_path / "page.html", "--caption", "a red square"
    )
    assert (status, out) == (0, f"open {tmp_path / 'page.html'}\n")
    status, _, errors = call(monkeypatch, capsys, "report", tmp_path)
    assert status == 2
    assert "is not the folder of a run" in errors


@needs_chromium
def test_the_page_of_a_run_can_be_used_by_everyone_on_any_screen(browser, page, run):  # noqa: F811
    assert faults_of(browser, run / "report.html") == []
