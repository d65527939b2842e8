"""What several layouts share: boxes, rows of one image, tables, captions beside keys."""

import pytest

from dmgan_fast.data.layouts.base import Captions, Entry, box_of, class_splits, entries, table
from dmgan_fast.errors import DataError


@pytest.mark.parametrize("values", [(1, 2, 3), "abcd", None, (1, 2, 3, float("nan")), (1, 2, 3, 1e12), (1, 2, 3, [])])
def test_what_is_no_box_is_refused_with_what_was_given(values):
    with pytest.raises(ValueError, match=r"box must be x, y, width, height.*got"):
        box_of(values)


def test_four_numbers_are_a_box_however_they_are_written():
    assert box_of(["1", 2, 3.5, 4]) == (1.0, 2.0, 3.5, 4.0)


def test_rows_of_one_image_add_up_and_may_not_contradict_each_other():
    entry = Entry()
    entry.take(["a"], "train", 0)
    entry.take(["b", "c"], "", None, box=(0.0, 0.0, 1.0, 1.0))
    assert (entry.captions, entry.split, entry.class_id, entry.lines) == (["a", "b", "c"], "train", 0, 2)
    for split, class_id, message in (("test", None, "split is 'test' here and 'train'"), ("", 3, "class_id is 3 here")):
        with pytest.raises(ValueError, match=message):
            entry.take([], split, class_id)
    assert entry.lines == 2


def test_a_line_with_too_few_values_is_named(tmp_path):
    (tmp_path / "images.txt").write_text("1 a b.jpg\n\n2\n")
    with pytest.raises(DataError, match=r"images\.txt:3: expected 2 values, got '2'"):
        table(tmp_path / "images.txt", 2)
    (tmp_path / "images.txt").write_text("1 a b.jpg\n")
    assert table(tmp_path / "images.txt", 2) == [["1", "a b.jpg"]]


def test_captions_of_a_key_or_why_there_are_none(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.txt").write_text("one\n\ntwo\n")
    captions = Captions(tmp_path)
    assert captions.of("a/b") == (("one", "two"), "")
    found, why = captions.of("a/c")
    assert found == ()
    assert why.startswith("a/c: captions can't be read: not found:")


def test_classes_have_splits_only_if_both_lists_are_there(tmp_path):
    (tmp_path / "trainvalclasses.txt").write_text("wren\nheron\n")
    assert class_splits(tmp_path) == {}
    (tmp_path / "testclasses.txt").write_text("owl\n")
    assert class_splits(tmp_path / "elsewhere", tmp_path) == {"wren": "train", "heron": "train", "owl": "test"}


def test_a_folder_is_told_by_a_few_names(tmp_path):
    assert entries(tmp_path) == "nothing"
    for k in range(10):
        (tmp_path / f"{k}").mkdir()
    assert entries(tmp_path, 3) == "0/, 1/, 2/ and 7 more"
