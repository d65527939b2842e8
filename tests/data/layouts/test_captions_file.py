"""Any folder of images with a captions file."""

import csv

import pytest

from dmgan_fast.errors import DataError
from tests.data.miniature import write_picture
from tests.data.small import open_small


def test_folder_with_jsonl(pictures):
    train, test = open_small(pictures), open_small(pictures, "test")
    assert len(train) == 8
    assert [record.key for record in test.records] == ["p0.jpg", "p3.jpg", "p6.jpg", "p9.jpg"]
    assert {record.class_id for record in test.records} == {0}
    assert "word3" not in train.vocabulary.words  # of a test caption only


def test_folder_with_csv_collects_captions_of_a_picture(pictures):
    (pictures / "captions.jsonl").unlink()
    with (pictures / "captions.csv").open("w", newline="", encoding="utf-8-sig") as stream:
        writer = csv.writer(stream)
        writer.writerows([("image", "caption"), *((f"p{k}.jpg", f"view {v} of {k}") for k in range(12) for v in "ab")])
    both = [open_small(pictures, split).records for split in ("train", "test")]
    found = {record.key: record for records in both for record in records}
    assert len(found) == 12
    assert found["p4.jpg"].captions == ("view a of 4", "view b of 4")
    assert {r.key for r in both[0]}.isdisjoint(r.key for r in both[1])


def test_folder_captions_may_hold_unicode_line_separators(tmp_path):
    write_picture(tmp_path / "a.jpg")
    (tmp_path / "captions.jsonl").write_text('{"image": "a.jpg", "captions": ["a\u2028b"], "split": "train"}')
    assert open_small(tmp_path)[0].length == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"image": "a.jpg"', "jsonl:1: not JSON"),
        ("[1]", "expected an object"),
        ('{"image": "a.jpg"}', "at least one caption"),
        ('{"image": "a.jpg", "captions": []}', "at least one caption"),
        ('{"image": "a.jpg", "captions": [" "]}', "at least one caption"),
        ('{"captions": ["a"]}', "an image"),
        ('{"image": "../a.jpg", "captions": ["a"]}', "outside the folder"),
        ('{"image": "a.jpg", "captions": ["a"], "split": "train", "class_id": "x"}', "whole number"),
        ('{"image": "a.jpg", "captions": ["a"], "split": "train", "class_id": [1]}', "whole number"),
        ("", "no images"),
    ],
)
def test_broken_caption_lines_are_named(tmp_path, line, message):
    (tmp_path / "captions.jsonl").write_text(line)
    with pytest.raises(DataError, match=message):
        open_small(tmp_path)


def test_csv_without_its_columns_is_refused(tmp_path):
    (tmp_path / "captions.csv").write_text("file,text\na.jpg,hello\n")
    with pytest.raises(DataError, match=r"column caption, image is missing"):
        open_small(tmp_path)


def test_the_key_and_column_of_earlier_versions_are_read_too(pictures):
    lines, now = pictures / "captions.jsonl", [record.key for record in open_small(pictures).records]
    lines.write_text(lines.read_text().replace('"image":', '"picture":'))
    assert [record.key for record in open_small(pictures).records] == now
    lines.unlink()
    (pictures / "captions.csv").write_text("picture,caption,split\np1.jpg,a view,train\np2.jpg,a view of two,train\n")
    assert [record.key for record in open_small(pictures).records] == ["p1.jpg", "p2.jpg"]
