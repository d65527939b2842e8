"""Rows of a data set."""

import json

from dmgan_fast.data import open_dataset
from tests.data.shapes import SIZES, found, shapes


def test_rows_that_contradict_each_other_are_named(tmp_path):
    lines = [{"image": "00.png", "captions": ["more"], "split": "train"}, {"image": "01.png", "captions": ["more"]}]
    with (shapes(tmp_path) / "captions.jsonl").open("a") as stream:
        stream.write("".join(json.dumps(line) + "\n" for line in lines))
    assert "captions.jsonl:13: split is 'train' here and 'test' in an earlier row" in found(tmp_path)["broken row"].text
    data = open_dataset(tmp_path, skip_bad=1, **SIZES)
    assert data.records[0].captions[-1] == "more"
