"""Images, texts, and lists of names."""

import pytest

from dmgan_fast.data import open_dataset
from dmgan_fast.data.opening import read_set
from dmgan_fast.errors import DataError
from tests.data.published import SIDE, draw, keys, opened, put, said


@pytest.mark.parametrize("ending", ["", ".jpg", ".JPG", ".png"])
@pytest.mark.parametrize("slash", ["/", "\\"])
@pytest.mark.parametrize("prefix", ["", "images/", "./"])
def test_lists_of_names_in_any_spelling(tmp_path, ending, slash, prefix):
    names = [f"{'ab'[k % 2]}/{k}" for k in range(4)]
    draw(tmp_path / "images", *(f"{name}.jpg" for name in names))
    for number, name in enumerate(names):
        put(tmp_path / f"text/{name}.txt", said(number))
    for file, part in (("train.txt", names[:3]), ("val.txt", names[3:])):
        put(tmp_path / file, "\r\n".join((prefix + name).replace("/", slash) + ending for name in part) + "\r\n")
    assert keys(opened(tmp_path)) == names[:3]
    (record,) = opened(tmp_path, "test").records
    assert (record.key, record.captions) == (names[3], ("a teal field", "field number 3"))


@pytest.mark.parametrize("lists", [("train_list", "test_list"), ("splits/train-filenames", "splits/val.names")])
def test_lists_by_other_names(tmp_path, lists):
    for number, name in enumerate("abc"):
        draw(tmp_path / "jpg", f"{name}.jpg")
        put(tmp_path / f"jpg/{name}.txt", said(number))  # beside the images
    for file, content in zip(lists, ("a\nb\n", "c\n"), strict=True):
        put(tmp_path / f"{file}.txt", content)
    assert (keys(opened(tmp_path)), keys(opened(tmp_path, "test"))) == (["a", "b"], ["c"])


def test_lists_with_classes_and_names_with_spaces(tmp_path):
    names = ["a b", "c 7", "d"]
    draw(tmp_path / "images", *(f"{name}.jpg" for name in names))
    for number, name in enumerate(names):
        put(tmp_path / f"text/{name}.txt", said(number))
    put(tmp_path / "train.txt", "a b 4\nc 7\nd.jpg 4\n")
    assert [(row.record.key, row.record.class_id) for row in read_set(tmp_path).rows] == [
        ("a b", 4),
        ("c 7", 5),
        ("d", 4),
    ]


def test_lists_name_images_and_texts_that_are_missing(tmp_path):
    draw(tmp_path / "images", "a.jpg", "b.jpg")
    put(tmp_path / "text/a.txt", "a red field")
    put(tmp_path / "train.txt", "a\nb\nc\n../d\n")
    put(tmp_path / "test.txt", "a\n")
    with pytest.raises(
        DataError, match=r"b: captions can't be read.*b\.txt.*c: image not found.*d' is outside the folder"
    ):
        open_dataset(tmp_path, image_sizes=(SIDE,))
