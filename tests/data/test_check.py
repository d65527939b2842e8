"""A look at the data before the first step: what stops a run, what teaches little, and nothing else."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from dmgan_fast.data import Purpose, Vocabulary, check_data, open_checked, open_dataset
from dmgan_fast.data import look as looking
from dmgan_fast.errors import DataError

SIZES = {"image_sizes": (8,), "max_words": 6}


def picture(file, number, size=(20, 20)):
    """Noise: no two are the same."""
    pixels = np.random.default_rng(number).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(file)


def shapes(root, count=12, *, size=(20, 20), suffix="png", **columns):
    """A set of ``count`` images; ``columns`` give further values of a row by its number."""
    root.mkdir(exist_ok=True)
    rows = []
    for k in range(count):
        picture(root / f"{k:02d}.{suffix}", k, size)
        row = {"picture": f"{k:02d}.{suffix}", "captions": [f"shape {k}", f"the shape number {k}"]}
        row["split"] = "test" if k % 4 == 0 else "train"
        rows.append(row | {name: value(k) for name, value in columns.items()})
    (root / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def found(root, level=None, purpose=None, **options):
    """Kinds of findings, with their names."""
    report = check_data(root, purpose or Purpose(side=8), **options)
    return {finding.kind: finding for finding in report.findings if level in (None, finding.level)}


def test_a_good_set_raises_no_voice(tmp_path):
    report = check_data(shapes(tmp_path), Purpose(side=16, batch_size=9))
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
        open_checked(tmp_path, Purpose(side=8, batch_size=2), **SIZES)


def test_skip_bad_goes_on_without_so_many_and_names_them(tmp_path):
    shapes(tmp_path)
    for name in ("03", "04", "05"):
        (tmp_path / f"{name}.png").write_bytes(b"")
    shown = []
    purpose = Purpose(side=8, batch_size=2, skip_bad=3)
    train, test = open_checked(tmp_path, purpose, show=shown.append, **SIZES)
    assert (len(train), len(test)) == (7, 2)
    assert [item.name for item in train.left_out] == ["03.png", "05.png"]
    assert all(f"{name}.png" in shown[0] for name in ("03", "04", "05"))
    whole = open_dataset(shapes(tmp_path / "whole"), **SIZES)
    assert train.vocabulary == whole.vocabulary  # whatever is skipped, words keep their indices
    with pytest.raises(DataError, match="--skip-bad 2 allows fewer"):
        open_checked(tmp_path, Purpose(side=8, skip_bad=2), **SIZES)


def test_many_of_a_kind_are_counted_and_all_named(tmp_path):
    shapes(tmp_path, 30)
    for k in range(1, 30, 2):
        (tmp_path / f"{k:02d}.png").unlink()
    missing = found(tmp_path)["missing image"]
    assert missing.text.startswith("15 × missing image (the first: 01.png: image not found")
    assert missing.names == tuple(f"{k:02d}.png" for k in range(1, 30, 2))
    assert all(name in check_data(tmp_path).text() for name in missing.names)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp"])
def test_a_quick_look_finds_what_is_cut_off(tmp_path, monkeypatch, suffix):
    shapes(tmp_path, 8, suffix=suffix, size=(60, 60))
    monkeypatch.setattr(looking, "DECODED", 0)
    quick = check_data(tmp_path, Purpose(side=8))
    assert (quick.findings, quick.facts.looks.how) == ((), "headers and ends read")
    file = tmp_path / f"02.{suffix}"
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    assert [item.name for item in check_data(tmp_path, Purpose(side=8)).facts.bad] == [f"02.{suffix}"]


def test_a_quick_look_decodes_nothing_that_looks_whole_and_a_full_one_all(tmp_path, monkeypatch):
    shapes(tmp_path, 8, size=(64, 64))
    file = tmp_path / "02.png"
    content = bytearray(file.read_bytes())
    content[60] ^= 255  # in the middle of the pixels
    file.write_bytes(content)
    monkeypatch.setattr(looking, "DECODED", 0)
    assert not check_data(tmp_path, Purpose(side=8)).facts.bad
    assert [item.name for item in check_data(tmp_path, Purpose(side=8), decode=True).facts.bad] == ["02.png"]


def test_of_a_large_set_a_spread_sample_is_looked_at_and_the_report_says_so(tmp_path, monkeypatch):
    shapes(tmp_path, 40)
    monkeypatch.setattr(looking, "DECODED", 0)
    monkeypatch.setattr(looking, "SAMPLE", 8)
    report = check_data(tmp_path, Purpose(side=8))
    assert "images looked at: 8, headers and ends read (--decode reads all of every image)" in report.text()
    (tmp_path / "31.png").unlink()  # that it is there is asked of all
    assert [item.name for item in check_data(tmp_path, Purpose(side=8)).facts.bad] == ["31.png"]


# What can teach nothing, and what teaches little


def test_one_class_for_all_teaches_nothing_where_images_and_captions_are_matched(tmp_path):
    shapes(tmp_path, class_id=lambda k: 7)
    error = found(tmp_path, "error")["one class for all"]
    assert "all 9 training images are in class 7" in error.text
    assert "Leave the class out" in error.text
    assert "one class for all" in found(tmp_path, "warning", Purpose(side=8, matches=False))


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
    errors = found(shapes(tmp_path), "error", Purpose(side=8, batch_size=10))
    assert list(errors) == ["batch larger than the set"]
    assert "only 9 are for training: --set loop.batch_size=9" in errors["batch larger than the set"].text
    assert not found(tmp_path, None, Purpose(side=8, batch_size=9))


@pytest.mark.parametrize(
    "said",
    [
        lambda k: f"一只红色的鸟站在树枝上{k}",
        lambda k: f"赤い鳥が枝に止まっている{k}",
        lambda k: f"a_red_bird_on_branch_{k}",
        lambda k: f"นกสีแดงเกาะอยู่บนกิ่งไม{k}",
    ],
    ids=["Chinese", "Japanese", "underscores", "Thai"],
)
def test_captions_whose_words_nothing_divides_are_refused_with_the_cause_first(tmp_path, said):
    report = check_data(shapes(tmp_path, captions=lambda k: [said(k)]), Purpose(side=8))
    assert report.errors[0].kind == "words not divided"
    assert "put spaces between the words" in report.refusal()


@pytest.mark.parametrize("said", ["一只 红色 的 鸟 {}", "un oiseau rouge {}", "red{}", "Donaudampfschiff {}"])
def test_captions_whose_words_are_divided_are_not(tmp_path, said):
    shapes(tmp_path, captions=lambda k: [said.format(k), said.format(0)])
    assert "words not divided" not in found(tmp_path)


# Words, splits, copies, sizes


def test_captions_without_a_known_word_are_counted_and_images_without_any_named(tmp_path):
    shapes(tmp_path, captions=lambda k: ["...", f"shape {k}"] if k == 3 else ["?!"] if k == 5 else [f"shape {k}"])
    kinds = found(tmp_path)
    assert "05.png has no caption with a known word" in kinds["no known word"].text
    assert kinds["captions without a known word"].names == ("03.png",)


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


def test_words_that_given_encoders_do_not_know_are_shown(tmp_path):
    shapes(tmp_path, captions=lambda k: [f"shape number {k}", "the shape"])
    assert not found(tmp_path, vocabulary=Vocabulary.from_captions(["the shape number", *map(str, range(12))]))
    some = found(tmp_path, "warning", vocabulary=Vocabulary.from_captions(["the shape", *map(str, range(12))]))
    assert some["unknown words"].text.startswith("20% of the words are unknown to the encoders")
    assert "most often number;" in some["unknown words"].text
    report = check_data(tmp_path, vocabulary=Vocabulary.from_captions(["zebra"]))
    assert report.errors[0].text.startswith("100% of the words are unknown to the encoders")


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
    report = check_data(shapes(tmp_path, split=lambda k: names[k % 4 == 0]), Purpose(side=8))
    assert not report.findings
    assert (len(report.facts.train), len(report.facts.test)) == (train, test)


def test_rows_in_no_split_are_named_with_the_splits_found_and_the_one_meant(tmp_path):
    names = ["test", "trian", "train", "val"]
    finding = found(shapes(tmp_path, split=lambda k: names[k % 4]), "warning")
    report = check_data(tmp_path, Purpose(side=8))
    texts = [each.text for each in report.findings if each.kind == "in no split"]
    assert finding["in no split"]
    assert "is 'train' meant? (splits found: test (3), trian (3), train (3), val (3))" in texts[0]
    assert "since there is a test split" in texts[1]
    assert [item.name for item in report.facts.left_out] == [f"{k:02d}.png" for k in range(12) if k % 4 in (1, 3)]


def test_a_set_of_one_split_says_how_to_hold_some_out(tmp_path):
    error = found(shapes(tmp_path, split=lambda k: "train"), "error")["no images in a split"]
    assert "no pictures in its test split; splits found: train (12)" in error.text
    assert "then about one picture in ten is held out" in error.text


@pytest.mark.parametrize("count", [2, 3, 5, 12])
def test_a_small_set_without_splits_has_images_in_both(tmp_path, count):
    report = check_data(shapes(tmp_path, count, split=lambda k: None), Purpose(side=8))
    assert report.facts.train
    assert report.facts.test


def test_copies_are_named_within_a_part_and_across(tmp_path):
    shapes(tmp_path)
    shutil.copy(tmp_path / "01.png", tmp_path / "02.png")
    shutil.copy(tmp_path / "03.png", tmp_path / "04.png")
    kinds = found(tmp_path, "warning")
    assert kinds["duplicates"].names == ("01.png = 02.png",)
    assert kinds["in both splits"].names == ("03.png = 04.png",)


def test_images_smaller_than_the_resolution_are_counted_after_the_crop(tmp_path):
    shapes(tmp_path, box=lambda k: [4, 4, 6, 6] if k == 3 else None)
    small = found(tmp_path, "warning", Purpose(side=16))["small images"]
    assert small.names == ("03.png",)
    assert "1 of 12 images with fewer than 16 pixels on the shorter side (the smallest: 8)" in small.text


def test_images_of_which_no_row_speaks_are_noted(tmp_path):
    picture(shapes(tmp_path) / "other.png", 50)
    assert found(tmp_path, "note")["not listed"].names == ("other.png",)


def test_rows_that_contradict_each_other_are_named(tmp_path):
    lines = [{"picture": "00.png", "captions": ["more"], "split": "train"}, {"picture": "01.png", "captions": ["more"]}]
    with (shapes(tmp_path) / "captions.jsonl").open("a") as stream:
        stream.write("".join(json.dumps(line) + "\n" for line in lines))
    assert "captions.jsonl:13: split is 'train' here and 'test' in an earlier row" in found(tmp_path)["broken row"].text
    data = open_dataset(tmp_path, skip_bad=1, **SIZES)
    assert data.records[0].captions[-1] == "more"


def test_the_embedded_set_is_fit():
    assert not check_data("demo", Purpose(side=128, batch_size=48)).errors
