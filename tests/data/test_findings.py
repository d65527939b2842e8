"""What teaches little or nothing is named."""

import shutil

import pytest

from dmgan_fast.data import Purpose
from tests.data.shapes import found, picture, shapes


def test_one_class_for_all_teaches_nothing_where_images_and_captions_are_matched(tmp_path):
    shapes(tmp_path, class_id=lambda k: 7)
    error = found(tmp_path, "error")["one class for all"]
    assert "all 9 training images are in class 7" in error.text
    assert "Leave the class out" in error.text
    assert "one class for all" in found(tmp_path, "warning", Purpose(image_size=8, matches=False))


def test_two_classes_teach_little_and_many_do_not(tmp_path):
    assert "few classes" in found(shapes(tmp_path / "two", 40, class_id=lambda k: k // 2 % 2), "warning")
    assert not found(shapes(tmp_path / "ten", 40, class_id=lambda k: k % 10), "warning")
    assert not found(shapes(tmp_path / "none", 40))


def test_one_class_among_held_out_images_is_told(tmp_path):
    kinds = found(shapes(tmp_path, class_id=lambda k: 0 if k % 4 == 0 else k), "warning")
    assert list(kinds) == ["one class held out"]


def test_classes_of_one_and_rows_without_a_class_are_named(tmp_path):
    single = found(shapes(tmp_path / "a", 40, class_id=lambda k: 99 if k == 5 else k % 4), "note")["classes of one"]
    assert single.names == ("05.png",)
    mixed = found(shapes(tmp_path / "b", 40, class_id=lambda k: None if k == 5 else k % 4))["some without a class"]
    assert mixed.names == ("05.png",)


@pytest.mark.parametrize("captions", [["a photo"], ["a photo", "an image"]])
def test_the_same_captions_for_all_teach_nothing(tmp_path, captions):
    assert "one caption for all" in found(shapes(tmp_path, captions=lambda k: captions), "error")


def test_the_same_captions_in_different_classes_teach_little(tmp_path):
    shapes(tmp_path / "a", 40, captions=lambda k: [["red", "blue", "green"][k % 3]])
    assert "same captions" in found(tmp_path / "a", "warning")
    shapes(tmp_path / "b", 40, captions=lambda k: [["red", "blue", "green"][k % 3]], class_id=lambda k: k % 3)
    assert not found(tmp_path / "b", "warning")


def test_one_image_and_one_image_many_times_teach_nothing(tmp_path):
    shapes(tmp_path / "a", 2, split=lambda k: ["train", "test"][k])
    assert "only one training image" in found(tmp_path / "a", "error")["one image"].text
    shapes(tmp_path / "b")
    for k in range(1, 12):
        shutil.copy(tmp_path / "b/00.png", tmp_path / f"b/{k:02d}.png")
    assert "are the same image" in found(tmp_path / "b", "error")["one image"].text


def test_a_batch_larger_than_the_set_is_refused_with_the_number_that_fits(tmp_path):
    errors = found(shapes(tmp_path), "error", Purpose(image_size=8, batch_size=10))
    assert list(errors) == ["batch larger than the set"]
    assert "only 9 are for training: --set loop.batch_size=9" in errors["batch larger than the set"].text
    assert not found(tmp_path, None, Purpose(image_size=8, batch_size=9))


def test_captions_with_letters_that_could_not_be_read_are_named(tmp_path):
    shapes(tmp_path / "images")
    (tmp_path / "text").mkdir()
    for k in range(12):
        text = f"Käfer Nummer {k}"
        (tmp_path / f"text/{k:02d}.txt").write_bytes(text.encode("latin-1" if k == 3 else "utf-8"))
    (tmp_path / "images/captions.jsonl").unlink()
    (tmp_path / "train.txt").write_text("\n".join(f"{k:02d}" for k in range(9)))
    (tmp_path / "test.txt").write_text("\n".join(f"{k:02d}" for k in range(9, 12)))
    assert found(tmp_path, "warning")["garbled captions"].names == ("03",)


def test_copies_are_named_within_a_part_and_across(tmp_path):
    shapes(tmp_path)
    shutil.copy(tmp_path / "01.png", tmp_path / "02.png")
    shutil.copy(tmp_path / "03.png", tmp_path / "04.png")
    kinds = found(tmp_path, "warning")
    assert kinds["duplicates"].names == ("01.png = 02.png",)
    assert kinds["in both splits"].names == ("03.png = 04.png",)


def test_images_smaller_than_the_resolution_are_counted_after_the_crop(tmp_path):
    shapes(tmp_path, box=lambda k: [4, 4, 6, 6] if k == 3 else None)
    small = found(tmp_path, "warning", Purpose(image_size=16))["small images"]
    assert small.names == ("03.png",)
    assert "1 of 12 images with fewer than 16 pixels on the shorter side (the smallest: 8)" in small.text


def test_images_of_which_no_row_speaks_are_noted(tmp_path):
    picture(shapes(tmp_path) / "other.png", 50)
    assert found(tmp_path, "note")["not listed"].names == ("other.png",)
