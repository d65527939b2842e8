"""Names of splits, and what is held out without them."""

import pytest

from dmgan_fast.data import Purpose, check_data
from tests.data.shapes import found, shapes


@pytest.mark.parametrize(
    ("names", "train", "test"),
    [
        (("Train", "TEST"), 9, 3),
        (("training", "validation"), 9, 3),
        (("train2014", "val2014"), 9, 3),
        (("trainval", "test"), 9, 3),
        ((" Train ", "dev"), 9, 3),
        (("train-set", "Held_Out"), 9, 3),
    ],
)
def test_names_of_splits_as_people_write_them(tmp_path, names, train, test):
    report = check_data(shapes(tmp_path, split=lambda k: names[k % 4 == 0]), Purpose(image_size=8))
    assert not report.findings
    assert (len(report.facts.train), len(report.facts.test)) == (train, test)


def test_rows_in_no_split_are_named_with_the_splits_found_and_the_one_meant(tmp_path):
    names = ["test", "trian", "train", "val"]
    finding = found(shapes(tmp_path, split=lambda k: names[k % 4]), "warning")
    report = check_data(tmp_path, Purpose(image_size=8))
    texts = [each.text for each in report.findings if each.kind == "in no split"]
    assert finding["in no split"]
    assert "is 'train' meant? (splits found: test (3), trian (3), train (3), val (3))" in texts[0]
    assert "since there is a test split" in texts[1]
    assert [item.name for item in report.facts.left_out] == [f"{k:02d}.png" for k in range(12) if k % 4 in (1, 3)]


def test_a_set_of_one_split_says_how_to_hold_some_out(tmp_path):
    error = found(shapes(tmp_path, split=lambda k: "train"), "error")["no images in a split"]
    assert "no images in its test split; splits found: train (12)" in error.text
    assert "then about one image in ten is held out" in error.text


@pytest.mark.parametrize("count", [2, 3, 5, 12])
def test_a_small_set_without_splits_has_images_in_both(tmp_path, count):
    report = check_data(shapes(tmp_path, count, split=lambda k: None), Purpose(image_size=8))
    assert report.facts.train
    assert report.facts.test
