"""Options that several commands share."""

import logging

import pytest

from dmgan_fast.cli.options import generator_values, notices, pair, run_values, split_names
from dmgan_fast.errors import InputError


def test_only_what_was_given_is_set():
    assert run_values(None, None, None) == {}
    assert run_values("", None, None) == {}
    assert run_values("birds", 0, None) == {"data": {"source": "birds", "skip_bad": 0}}
    assert generator_values(None, None) == {}
    assert generator_values(256, "bf16") == {
        "generator": {"image_sizes": (64, 128, 256)},
        "step": {"precision": "bf16"},
    }


def test_names_are_divided_by_commas_and_empty_ones_are_none():
    assert split_names(" is-tf, ,fid-tf,") == ["is-tf", "fid-tf"]
    assert split_names(None) == []


def test_a_pair_is_divided_at_its_first_sign():
    assert pair("fid-tf=a=b.npz") == ("fid-tf", "a=b.npz")
    with pytest.raises(InputError, match=r"--statistics is written METRIC=FILE, got 'fid-tf'"):
        pair("fid-tf")


def test_notices_of_a_run_are_told_within_and_warnings_as_such(capsys):
    logger = logging.getLogger("dmgan_fast.runs")
    before = logger.level, list(logger.handlers)
    with notices():
        logger.info("data found by content")
        logger.warning("other data")
    assert capsys.readouterr().err == "dmgan-fast: data found by content\ndmgan-fast: warning: other data\n"
    assert (logger.level, logger.handlers) == before
    logger.info("afterwards")
    assert capsys.readouterr().err == ""
