"""Shards of WebDataset."""

import json

import pytest

from dmgan_fast.data import open_dataset
from dmgan_fast.data.opening import read_set
from dmgan_fast.errors import DataError
from tests.data.published import SIDE, image_bytes, keys, opened, put, said, shard


def test_webdataset_shards_are_read_in_any_order(tmp_path):
    for part, numbers in (("train", range(5)), ("test", range(5, 7))):
        samples = []
        for k in numbers:
            samples += [(f"./{k:04d}.png", image_bytes(k)), (f"./{k:04d}.cls", b"%d" % (k % 2))]
            samples += [(f"./{k:04d}.json", json.dumps({"caption": f"field number {k}"}).encode())]
        shard(tmp_path / f"{part}-000000.tar", samples)
    train, test = opened(tmp_path), opened(tmp_path, "test")
    assert [record.captions[0] for record in train.records] == [f"field number {k}" for k in range(5)]
    assert [record.class_id for record in test.records] == [1, 0]
    whole = open_dataset(tmp_path, image_sizes=(12,), augment=False)
    assert whole[4].images[0][:, 6, 6].tolist() == pytest.approx([0.506] * 3, abs=0.01)  # silver


def test_shards_in_folders_of_parts_and_a_single_shard(tmp_path):
    for part, k in (("train", 0), ("train", 1), ("val", 2)):
        shard(tmp_path / part / f"{k:06d}.tar", [(f"{k}.jpg", image_bytes(k, "JPEG")), (f"{k}.txt", said(k).encode())])
    assert keys(opened(tmp_path)) == ["train/000000.tar:0", "train/000001.tar:1"]
    assert keys(opened(tmp_path, "test")) == ["val/000002.tar:2"]
    assert read_set(tmp_path / "train/000000.tar").rows[0].record.captions == ("a maroon field", "field number 0")


def test_a_shard_that_is_cut_off_is_named_and_so_is_a_packed_one(tmp_path):
    file = tmp_path / "train-0.tar"
    shard(
        file,
        [(f"{k}{end}", image_bytes(k) if end == ".png" else b"a field") for k in range(4) for end in (".png", ".txt")],
    )
    put(tmp_path / "test-0.tar.gz", b"packed")
    whole = file.read_bytes()
    for size in (4096, 4300, 4650, 5120):  # before, in and after a header, in a member
        file.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"train-0\.tar is cut off or damaged after \d samples"):
            open_dataset(tmp_path, image_sizes=(SIDE,))
    assert any("test-0.tar.gz" in note for note in read_set(tmp_path).notes)
    put(file, b"no archive at all")
    with pytest.raises(DataError, match=r"train-0\.tar can't be read as a tar archive"):
        open_dataset(tmp_path)
