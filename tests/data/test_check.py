"""A look at the data before the first step: what stops a run, what teaches little, and nothing else."""

import json

import pytest

from dmgan_fast.data import Purpose, check_data, open_checked, open_dataset
from dmgan_fast.errors import DataError
from tests.data.shapes import SIZES, found, shapes


def test_a_good_set_raises_no_voice(tmp_path):
    report = check_data(shapes(tmp_path), Purpose(image_size=16, batch_size=9))
    assert report.findings == ()
    assert report.text().endswith("a run goes on with this set")
    values = json.loads(report.to_json())
    assert (values["ok"], values["rows"], values["train"], values["test"], values["left_out"]) == (True, 12, 9, 3, [])
    assert (values["captions"], values["classes"], values["images"]["looked_at"]) == (24, 9, 12)


def test_all_damaged_and_missing_images_are_named_at_once(tmp_path):
    shapes(tmp_path)
    for name in ("03", "05"):
        file = tmp_path / f"{name}.png"
        file.write_bytes(file.read_bytes()[:40])
    (tmp_path / "08.png").unlink()
    (tmp_path / "09.png").write_text("not found")
    errors = found(tmp_path, "error")
    text = " ".join(finding.text for finding in errors.values())
    assert all(f"{name}.png" in text for name in ("03", "05", "08", "09"))
    assert errors["can't be used"].text.endswith("--skip-bad 4")
    with pytest.raises(DataError, match=r"03\.png.*05\.png.*09\.png.*08\.png.*4 of 12 images can't be used"):
        open_checked(tmp_path, Purpose(image_size=8, batch_size=2), **SIZES)


def test_skip_bad_goes_on_without_so_many_and_names_them(tmp_path):
    shapes(tmp_path)
    for name in ("03", "04", "05"):
        (tmp_path / f"{name}.png").write_bytes(b"")
    shown = []
    purpose = Purpose(image_size=8, batch_size=2, skip_bad=3)
    train, test = open_checked(tmp_path, purpose, show=shown.append, **SIZES)
    assert (len(train), len(test)) == (7, 2)
    assert [item.name for item in train.left_out] == ["03.png", "05.png"]
    assert all(f"{name}.png" in shown[0] for name in ("03", "04", "05"))
    whole = open_dataset(shapes(tmp_path / "whole"), **SIZES)
    assert train.vocabulary == whole.vocabulary  # whatever is skipped, words keep their indices
    with pytest.raises(DataError, match="--skip-bad 2 allows fewer"):
        open_checked(tmp_path, Purpose(image_size=8, skip_bad=2), **SIZES)


def test_many_of_a_kind_are_counted_and_all_named(tmp_path):
    shapes(tmp_path, 30)
    for k in range(1, 30, 2):
        (tmp_path / f"{k:02d}.png").unlink()
    missing = found(tmp_path)["missing image"]
    assert missing.text.startswith("15 × missing image (the first: 01.png: image not found")
    assert missing.names == tuple(f"{k:02d}.png" for k in range(1, 30, 2))
    assert all(name in check_data(tmp_path).text() for name in missing.names)


def test_the_embedded_set_is_fit():
    assert not check_data("demo", Purpose(image_size=128, batch_size=48)).errors
