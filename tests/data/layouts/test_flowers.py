"""Oxford's flowers, as published, with Reed's captions."""

import numpy as np
import pytest
import scipy.io

from dmgan_fast.data import open_dataset
from dmgan_fast.errors import DataError
from tests.data.published import flowers, keys, opened, put


def test_flowers_by_the_published_files(tmp_path):
    flowers(tmp_path)
    scipy.io.savemat(tmp_path / "imagelabels.mat", {"labels": np.array([[9, 9, 8, 8, 7, 7, 6, 6]], np.uint8)})
    parts = {"trnid": [[1, 2, 3]], "valid": [[4]], "tstid": [[5, 6, 7, 8]]}
    scipy.io.savemat(tmp_path / "setid.mat", {name: np.array(ids, np.uint16) for name, ids in parts.items()})
    train, test = opened(tmp_path), opened(tmp_path, "test")
    assert [(record.key, record.class_id) for record in train.records] == [
        ("image_00001", 9),
        ("image_00002", 9),
        ("image_00003", 8),
    ]
    assert keys(test) == [f"image_{k:05d}" for k in range(5, 9)]
    assert [item.name for item in train.left_out] == ["image_00004"]
    assert train.records[0].captions == ("a olive field", "field number 1")


def test_flowers_by_reeds_classes_and_without_any_list(tmp_path):
    train, test = (opened(flowers(tmp_path), split) for split in ("train", "test"))
    assert len(train) + len(test) == 8
    assert len(test) >= 1
    assert train.records[0].class_id != train.records[1].class_id  # the folders of the captions
    put(tmp_path / "trainvalclasses.txt", "class_00001\nclass_00002\nclass_00003\n")
    put(tmp_path / "testclasses.txt", "class_00004\n")
    assert keys(opened(tmp_path, "test")) == ["image_00003", "image_00007"]


def test_flowers_with_broken_or_other_files_name_them(tmp_path):
    put(flowers(tmp_path) / "setid.mat", b"no matlab")
    with pytest.raises(DataError, match=r"setid\.mat can't be read"):
        open_dataset(tmp_path)
    scipy.io.savemat(tmp_path / "setid.mat", {"train": [1]})
    with pytest.raises(DataError, match=r"setid\.mat: the variable trnid is missing; has train"):
        open_dataset(tmp_path)
    scipy.io.savemat(tmp_path / "setid.mat", {"trnid": [1, 2.5]})
    with pytest.raises(DataError, match=r"setid\.mat: trnid must hold whole numbers"):
        open_dataset(tmp_path)
