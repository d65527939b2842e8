"""What is in a source is found out; what can not be used is named."""

import pyarrow
import pyarrow.parquet
import pytest

from dmgan_fast.data import open_dataset
from dmgan_fast.data.opening import read_set
from dmgan_fast.errors import DataError, InputError
from tests.data.published import POINTER, SIDE, coco, draw, image_bytes, opened, put, said, shard, write_metadata
from tests.data.small import open_small


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (POINTER, "it is a Git LFS pointer that stands for the file of 12,345 bytes: .* `git lfs pull`"),
        ("<!DOCTYPE html>\n<html><body>404</body></html>", "it is a web page, saved in place .* fetch it again"),
        ("", "it is an empty file: the download broke off; fetch it again"),
        ("some text", "it is no image, or of a kind that is not read"),
    ],
)
def test_what_is_no_image_is_named_as_what_it_is(tmp_path, content, why):
    draw(tmp_path, "a.jpg", "b.jpg")
    put(tmp_path / "a.jpg", content)
    put(tmp_path / "captions.csv", "image,caption,split\na.jpg,red,train\nb.jpg,blue,test\n")
    with pytest.raises(DataError, match=rf"a\.jpg: {why}$"):
        _ = open_dataset(tmp_path, image_sizes=(SIDE,))[0]


@pytest.mark.parametrize("layout", ["imagefolder", "parquet", "shards", "lists"])
def test_of_what_is_there_for_training_only_some_is_held_out_and_a_note_says_so(tmp_path, layout):
    numbers = range(12)
    if layout == "imagefolder":
        draw(tmp_path / "train", *(f"{k}.png" for k in numbers))
        rows = [{"file_name": f"{k}.png", "text": f"field {k}"} for k in numbers]
        write_metadata(tmp_path / "train/metadata.csv", rows)
    elif layout == "parquet":
        table = pyarrow.table({"image": [image_bytes(k) for k in numbers], "text": [f"field {k}" for k in numbers]})
        pyarrow.parquet.write_table(table, tmp_path / "train-00000-of-00001.parquet")
    elif layout == "shards":
        shard(
            tmp_path / "train-0.tar",
            [(f"{k}{e}", c) for k in numbers for e, c in ((".png", image_bytes(k)), (".txt", b"a"))],
        )
    else:
        draw(tmp_path / "images", *(f"{k}.png" for k in numbers))
        put(tmp_path / "train.txt", "\n".join(map(str, numbers)))
        for k in numbers:
            put(tmp_path / f"text/{k}.txt", said(k))
    train, test = opened(tmp_path), opened(tmp_path, "test")
    assert len(train) + len(test) == 12
    assert len(train) > len(test) >= 1
    assert any("one image in ten is held out" in note for note in read_set(tmp_path).notes)


def test_a_set_one_level_up_or_down_is_pointed_at(tmp_path):
    coco(tmp_path / "sets/coco")
    with pytest.raises(DataError, match=r"sets/coco' is one \(COCO"):
        open_dataset(tmp_path / "sets")
    with pytest.raises(DataError, match=r"sets/coco' is one \(COCO"):
        open_dataset(tmp_path / "sets/coco/train2014")
    with pytest.raises(DataError, match="a file, not a folder"):
        open_dataset(tmp_path / "sets/coco/annotations/captions_train2014.json")


def test_images_without_captions_say_what_is_missing_and_what_is_there(tmp_path):
    draw(tmp_path, "cats/a.jpg", "dogs/b.jpg")
    with pytest.raises(DataError, match=r"with images, but without captions\.jsonl.*holds cats/, dogs/.*docs/data\.md"):
        open_dataset(tmp_path)


def test_nothing_known_says_what_was_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"filenames\.pickle.*captions\.jsonl.*captions\.csv"):
        open_small(tmp_path)
    with pytest.raises(DataError, match="not a folder"):
        open_small(tmp_path / "absent")


def test_wrong_split_names_the_allowed_ones():
    with pytest.raises(InputError, match="train, test"):
        open_dataset("demo", "validation")
