"""Data and encoders are known by their content, wherever they lie."""

import json
import logging
import shutil

import pytest

from dmgan_fast.errors import CheckpointError
from dmgan_fast.training.damsm import pretrain
from dmgan_fast.training.trainer import train
from tests.training.conftest import pretrain_config, train_config
from tests.training.resumed import state
from tests.training.test_engine import same


def test_data_and_encoders_that_moved_are_known_by_content_and_the_bits_stay(begun, caplog):
    train(train_config(begun / "data", begun / "damsm", steps=3), begun / "whole")
    shutil.move(begun / "data", begun / "elsewhere")
    shutil.move(begun / "damsm", begun / "other")
    with caplog.at_level(logging.INFO, "dmgan_fast"):
        train(train_config(begun / "elsewhere", begun / "other", steps=3), begun / "run", resume=True)
    assert f"data found by content: data.source was {begun / 'data'}, now {begun / 'elsewhere'}" in caplog.text
    assert f"encoders found by content: encoders was {begun / 'damsm'}, now {begun / 'other'}" in caplog.text
    same(state(begun / "whole")["task"], state(begun / "run")["task"])
    assert json.loads((begun / "run" / "config.json").read_text())["data"]["source"] == str(begun / "elsewhere")


def test_other_data_elsewhere_are_refused_with_both_places(begun):
    shutil.copytree(begun / "data", begun / "fewer")
    lines = (begun / "fewer" / "captions.jsonl").read_text().splitlines(keepends=True)
    (begun / "fewer" / "captions.jsonl").write_text("".join(lines[1:]))
    with pytest.raises(CheckpointError, match=r"other data; these differ: data\.source \(.*data, now .*fewer\)"):
        train(train_config(begun / "fewer", begun / "damsm", steps=3), begun / "run", resume=True)


def test_other_encoders_are_refused_wherever_they_lie(pictures, begun):
    pretrain(pretrain_config(pictures, steps=1, seed=5), begun / "others")
    with pytest.raises(CheckpointError, match=r"other encoders; these differ: encoders \(.*damsm, now .*others\)"):
        train(train_config(begun / "data", begun / "others", steps=3), begun / "run", resume=True)
    shutil.rmtree(begun / "damsm")
    shutil.move(begun / "others", begun / "damsm")
    with pytest.raises(CheckpointError, match=r"encoders at .*damsm changed since .*was written"):
        train(train_config(begun / "data", begun / "damsm", steps=3), begun / "run", resume=True)


def test_data_edited_in_place_go_on_with_a_warning(begun, caplog):
    file = begun / "data" / "captions.jsonl"
    file.write_text(file.read_text().replace("one circle in red", "one red circle"))
    train(train_config(begun / "data", begun / "damsm", steps=3), begun / "run", resume=True)
    assert "data at" in caplog.text
    assert "changed since" in caplog.text
    assert state(begun / "run")["step"] == 3
