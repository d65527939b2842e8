"""COCO, as published and as Karpathy splits it."""

import json

import pytest

from dmgan_fast.data import open_dataset
from dmgan_fast.errors import DataError
from tests.data.published import SIDE, coco, draw, keys, opened, put, said

PARTS = pytest.mark.parametrize(
    ("folders", "year"),
    [("{part}{year}", 2014), ("images/{part}{year}", 2017), ("images", 2014), ("", 2014)],
    ids=["parts", "parts in images", "images", "beside annotations"],
)


@PARTS
def test_coco_as_published(tmp_path, folders, year):
    train, test = (opened(coco(tmp_path, folders, year), split) for split in ("train", "test"))
    assert (len(train), len(test)) == (4, 2)
    assert train.records[2].captions == ("a navy field", "field number 2")
    assert test.records[0].captions == ("a silver field", "field number 4")
    assert len({record.class_id for record in (*train.records, *test.records)}) == 6
    assert not train.records[0].upright


def test_coco_names_what_belongs_to_nothing(tmp_path):
    file = coco(tmp_path) / "annotations/captions_train2014.json"
    content = json.loads(file.read_text())
    content["annotations"] += [{"image_id": 99, "caption": "nobody"}, {"image_id": 10}]
    content["images"] += [{"id": 55, "file_name": "COCO_train_silent.jpg"}, {"file_name": "x.jpg"}]
    put(file, json.dumps(content))
    draw(tmp_path / "train2014", "COCO_train_silent.jpg")
    with pytest.raises(DataError, match=r"silent\.jpg has no caption.*an annotation needs.*an image needs"):
        open_dataset(tmp_path, image_sizes=(SIDE,))
    data = open_dataset(tmp_path, image_sizes=(SIDE,), skip_bad=3)
    assert (len(data), len(data.left_out)) == (4, 4)
    assert [item.name for item in data.left_out if item.kind == "text without an image"] == [
        "captions_train2014.json: captions of image 99"
    ]


def test_instances_without_captions_name_the_file_that_is_missing(tmp_path):
    coco(tmp_path)
    for file in tmp_path.glob("annotations/captions_*"):
        file.unlink()
    with pytest.raises(DataError, match=r"nearest is COCO as published.*without annotations/captions_\*\.json"):
        open_dataset(tmp_path)


def test_karpathys_json(tmp_path):
    draw(tmp_path / "images", *(f"{k}.jpg" for k in range(4)))
    rows = [
        {"filename": f"{k}.jpg", "split": split, "sentences": [{"raw": text} for text in said(k).split("\n") if text]}
        for k, split in enumerate(("train", "restval", "test", "val"))
    ]
    put(tmp_path / "dataset_flickr8k.json", json.dumps({"images": rows}))
    assert keys(opened(tmp_path)) == ["0.jpg", "1.jpg"]
    test = opened(tmp_path, "test")
    assert keys(test) == ["2.jpg"]
    assert [(item.name, item.kind) for item in test.left_out] == [("3.jpg", "in no split")]
