"""The models that a page offers."""

import shutil

import pytest

from dmgan_fast.errors import CheckpointError, InputError
from dmgan_fast.web.models import SHIPPED_NAME, Models, find_models


def test_runs_below_a_folder_are_offered_by_their_place_in_it(weights, tmp_path):
    for name in ("birds/gan/weights", "birds/gan/best", "plain", ".hidden", "a/b/c/too-deep"):
        shutil.copytree(weights, tmp_path / "runs" / name)
    (tmp_path / "runs" / "encoders").mkdir()
    models = find_models(runs=tmp_path / "runs", device="cpu")
    assert models.names == [SHIPPED_NAME, "birds/gan", "birds/gan, best", "plain"]
    assert models.get("birds/gan, best").vocabulary.knows("apple")


def test_given_weights_come_first_and_names_are_told_apart(weights, tmp_path):
    shutil.copytree(weights, tmp_path / "one" / "gan")
    shutil.copytree(weights, tmp_path / "two" / "gan")
    models = find_models([str(tmp_path / "one" / "gan"), str(tmp_path / "two" / "gan")], device="cpu")
    assert models.names == ["gan", "gan (2)", SHIPPED_NAME]


def test_a_name_tells_no_place_on_this_machine(weights, tmp_path):
    shutil.copytree(weights, tmp_path / "runs" / "gan")
    models = find_models([str(weights)], tmp_path / "runs")
    assert not any(str(tmp_path) in name or name.startswith("/") for name in models.names)


def test_a_hub_id_is_offered_and_fetched_only_when_asked_for(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert find_models(["me/gan"]).names == ["me/gan", SHIPPED_NAME]


def test_given_weights_that_cannot_be_used_stop_the_start(tmp_path):
    with pytest.raises(CheckpointError, match="no weights at"):
        find_models([str(tmp_path)])
    with pytest.raises(InputError, match=r"web: --runs must be a folder, got '.*nothing'"):
        find_models(runs=tmp_path / "nothing")


def test_a_model_is_loaded_once_and_the_last_used_stay():
    loads = []

    def source(name):
        return lambda: loads.append(name) or name

    models = Models({name: source(name) for name in "abc"}, keep=2)
    assert [models.get(name) for name in "aabacab"] == list("aabacab")
    assert loads == ["a", "b", "c", "b"]


def test_no_model_is_refused():
    with pytest.raises(InputError, match="at least one model"):
        Models({})
