"""A text beside each image."""

import pytest

from dmgan_fast.data import open_dataset
from dmgan_fast.data.opening import read_set
from dmgan_fast.errors import DataError
from tests.data.published import SIDE, draw, keys, opened, put, said


@pytest.mark.parametrize("suffix", [".txt", ".caption"])
def test_a_text_beside_each_image(tmp_path, suffix):
    names = [f"deep/er/{k}" if k % 2 else f"{k}" for k in range(12)]
    draw(tmp_path, *(f"{name}{('.jpg', '.PNG', '.webp')[k % 3]}" for k, name in enumerate(names)))
    for number, name in enumerate(names):
        put(tmp_path / f"{name}{suffix}", said(number))
    put(tmp_path / "README.txt", "made by hand")
    train, test = opened(tmp_path), opened(tmp_path, "test")
    assert len(train) + len(test) == 12
    assert not train.left_out
    assert {record.captions[1] for record in (*train.records, *test.records)} == {
        f"field number {k}" for k in range(12)
    }


def test_texts_beside_images_in_folders_of_parts(tmp_path):
    for part, numbers in (("Training", range(3)), ("validation", range(3, 5))):
        draw(tmp_path / part, *(f"{k}.jpg" for k in numbers))
        for number in numbers:
            put(tmp_path / part / f"{number}.txt", said(number))
    assert keys(opened(tmp_path)) == ["Training/0.jpg", "Training/1.jpg", "Training/2.jpg"]
    assert keys(opened(tmp_path, "test")) == ["validation/3.jpg", "validation/4.jpg"]


def test_images_without_a_text_and_texts_without_an_image_are_named(tmp_path):
    draw(tmp_path, "a.jpg", "b.jpg")
    put(tmp_path / "a.txt", "a red field")
    put(tmp_path / "c.txt", "a blue field")
    with pytest.raises(DataError, match=r"b\.jpg has no text beside it"):
        open_dataset(tmp_path, image_sizes=(SIDE,))
    assert [(item.name, item.kind) for item in read_set(tmp_path).lost] == [("c.txt", "text without an image")]
