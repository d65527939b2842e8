"""CUB, as published, with Reed's captions."""

import pytest

from dmgan_fast.data import open_dataset
from dmgan_fast.data.opening import read_set
from dmgan_fast.errors import DataError
from tests.data.miniature import write_pickle
from tests.data.published import SIDE, draw, keys, opened, put, said

BIRDS = [f"{1 + k % 3:03d}.Bird_{'ABC'[k % 3]}/Bird_{k:04d}_{k}" for k in range(6)]


def cub(root, texts="text_c10", own="CUB_200_2011", boxes=True):
    draw(root / own / "images", *(f"{key}.jpg" for key in BIRDS))
    for number, key in enumerate(BIRDS):
        put(root / texts / f"{key}.txt", said(number))
        put(root / texts / f"{key}.h5", b"features")
    tables = {
        "images.txt": [f"{key}.jpg" for key in BIRDS],
        "train_test_split.txt": [int(k != 4) for k in range(6)],
        "image_class_labels.txt": [1 + k % 3 for k in range(6)],
    } | ({"bounding_boxes.txt": [f"{k}.0 2.0 4.0 5.0" for k in range(6)]} if boxes else {})
    for name, values in tables.items():
        put(root / own / name, "".join(f"{k} {value}\r\n" for k, value in enumerate(values, start=1)))
    return root


@pytest.mark.parametrize(
    ("texts", "own", "opened_at"),
    [
        ("text_c10", "CUB_200_2011", ""),
        ("text", "CUB_200_2011", ""),
        ("CUB_200_2011/text_c10", "CUB_200_2011", ""),
        ("text_c10", "CUB_200_2011", "CUB_200_2011"),
        ("text_c10", "", ""),
    ],
)
def test_cub_with_reeds_captions_and_nobodys_pickles(tmp_path, texts, own, opened_at):
    root = cub(tmp_path, texts, own) / opened_at
    train, test = opened(root), opened(root, "test")
    assert keys(train) == [key for key in BIRDS if key != BIRDS[4]]
    assert keys(test) == [BIRDS[4]]
    assert train.records[1].captions == ("a olive field", "field number 1")
    assert [record.class_id for record in train.records] == [1, 2, 3, 1, 3]
    assert train.records[3].box == (3.0, 2.0, 4.0, 5.0)


def test_cub_unpacked_into_a_folder_of_its_name(tmp_path):
    cub(tmp_path, own="CUB_200_2011/CUB_200_2011")
    assert len(opened(tmp_path)) == 5
    for split, part in (("train", BIRDS[:4]), ("test", BIRDS[4:])):
        write_pickle(tmp_path / split / "filenames.pickle", part)
    (record, _) = opened(tmp_path, "test").records  # now AttnGAN's layout
    assert record.box == (4.0, 2.0, 4.0, 5.0)


def test_cub_by_reeds_classes_as_in_the_paper(tmp_path):
    put(cub(tmp_path) / "trainvalclasses.txt", "001.Bird_A\n002.Bird_B\n")
    put(tmp_path / "testclasses.txt", "003.Bird_C\r\n")
    assert keys(opened(tmp_path)) == [key for key in BIRDS if not key.startswith("003")]
    assert keys(opened(tmp_path, "test")) == [key for key in BIRDS if key.startswith("003")]


def test_cub_without_boxes_and_labels_says_so_and_takes_folders_as_classes(tmp_path):
    cub(tmp_path, boxes=False)
    (tmp_path / "CUB_200_2011/image_class_labels.txt").unlink()
    contents = read_set(tmp_path)
    assert any("bounding_boxes.txt is not there" in note for note in contents.notes)
    assert [row.record.class_id for row in contents.rows] == [0, 1, 2, 0, 1, 2]
    assert contents.rows[0].record.box is None


def test_cub_without_captions_names_them(tmp_path):
    cub(tmp_path, texts="elsewhere")
    with pytest.raises(DataError, match=r"nearest is CUB as published.*without text_c10/ \(Reed's captions\)"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("broken", ["1", "7 x.jpg\n7 y.jpg"])
def test_broken_lines_of_cub_are_named(tmp_path, broken):
    file = cub(tmp_path) / "CUB_200_2011/images.txt"
    (tmp_path / "CUB_200_2011/bounding_boxes.txt").unlink()
    put(file, file.read_bytes() + broken.encode())
    with pytest.raises(DataError, match=r"images\.txt:[78]: a number of its own and a name are needed"):
        open_dataset(tmp_path, image_sizes=(SIDE,))
