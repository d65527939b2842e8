"""Every layout is recognised and read; what is broken is named."""

import csv
import shutil

import pytest
from miniature import write_pickle, write_picture
from PIL import Image

from dmgan_fast.data import Vocabulary, make_loader, open_dataset
from dmgan_fast.data.dataset import Record, crop_to_box, read_picture
from dmgan_fast.errors import DataError, InputError

SIZES = (8, 16)


def open_small(source, split="train", **options):
    return open_dataset(source, split, image_sizes=SIZES, **options)


def test_cub_keys_captions_classes_and_official_indices(cub):
    data = open_small(cub)
    assert [record.key for record in data.records] == ["001.Ä_Bird/Bird_1", "001.Ä_Bird/Bird_2"]
    assert [record.class_id for record in data.records] == [7, 9]
    assert data.records[0].captions == ("a red bird", "a blue bird")
    assert data.records[1].captions == ("a long bird with wings", "red bird")
    assert data.vocabulary.encode("wings red") == ([7, 2], [])
    assert data.records[0].box == (10.0, 5.0, 20.0, 10.0)
    test = open_small(cub, "test")
    assert [(r.key, r.class_id, r.captions) for r in test.records] == [("002.Wren/Wren_1", 11, ("blue bird", "blue"))]
    assert [tuple(image.shape) for image in test[0].images] == [(3, 8, 8), (3, 16, 16)]


def test_coco_text_files_unicode_and_windows_line_ends(coco):
    data = open_small(coco, "test")
    assert data.records[0].captions == ("A red bird.", "A Café, blue")
    assert data.vocabulary.words == ["<end>", "a", "bird", "blue", "café", "red"]
    assert data[0].caption.tolist()[:4] == [1, 5, 2, 0]
    assert [record.class_id for record in open_small(coco).records] == [0, 1]
    assert data.records[0].box is None


def test_folder_with_jsonl(pictures):
    train, test = open_small(pictures), open_small(pictures, "test")
    assert len(train) == 8
    assert [record.key for record in test.records] == ["p0.jpg", "p3.jpg", "p6.jpg", "p9.jpg"]
    assert {record.class_id for record in test.records} == {0}
    assert "word3" not in train.vocabulary.words  # of a test caption only


def test_folder_with_csv_collects_captions_of_a_picture(pictures):
    (pictures / "captions.jsonl").unlink()
    with (pictures / "captions.csv").open("w", newline="", encoding="utf-8-sig") as stream:
        writer = csv.writer(stream)
        writer.writerows(
            [("picture", "caption"), *((f"p{k}.jpg", f"view {v} of {k}") for k in range(12) for v in "ab")]
        )
    both = [open_small(pictures, split).records for split in ("train", "test")]
    found = {record.key: record for records in both for record in records}
    assert len(found) == 12
    assert found["p4.jpg"].captions == ("view a of 4", "view b of 4")
    assert {r.key for r in both[0]}.isdisjoint(r.key for r in both[1])


def test_folder_captions_may_hold_unicode_line_separators(tmp_path):
    write_picture(tmp_path / "a.jpg")
    (tmp_path / "captions.jsonl").write_text('{"picture": "a.jpg", "captions": ["a\u2028b"], "split": "train"}')
    assert open_small(tmp_path)[0].length == 2


def test_demo_set_is_complete():
    train, test = open_dataset("demo", image_sizes=(64, 128)), open_dataset("demo", "test", image_sizes=(64, 128))
    assert len(train) + len(test) >= 1900
    assert 0.05 < len(test) / (len(train) + len(test)) < 0.2
    assert not {r.key for r in train.records} & {r.key for r in test.records}
    assert train.vocabulary == test.vocabulary
    assert len({record.class_id for record in train.records}) > 50
    colours = {"red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "gray", "white"}
    for record in [*train.records, *test.records]:
        assert len(set(record.captions)) >= 4
        assert all(len(caption.split()) >= 3 for caption in record.captions)
        assert colours & set(record.captions[0].replace(",", "").split()), record.captions
    for record in train.records[::20]:
        assert read_picture(record).size == (128, 128)


def test_demo_captions_say_the_colours_of_the_picture():
    test = open_dataset("demo", image_sizes=(64,), augment=False)
    said = {record.key: record.captions[0] for record in test.records}
    expected = {"1F34E": "a red", "1F438": "a green", "1F433": "a blue", "1F346": "a purple", "1F43B": "a brown"}
    known = {key: colour for key, colour in expected.items() if key in said}
    assert len(known) >= 3
    for key, colour in known.items():
        assert said[key].startswith(colour), said[key]


# The published crop: half the side of the square is 0.75 of the box's longer side, cut at the picture's border.
@pytest.mark.parametrize(
    ("box", "size"),
    [
        ((10, 5, 20, 10), (30, 25)),  # centre (20, 10), r 15: 5..35 across, 0..25 down
        ((50, 30, 500, 500), (60, 40)),  # far beyond the picture: cut to it
        ((-20, -20, 30, 30), (17, 17)),
        ((3, 3, 1, 1), (60, 40)),  # r = 0: no area, so the whole picture
        ((1000, 1000, 10, 10), (60, 40)),
        ((10, 10, float("nan"), 4), (6, 6)),
        (None, (60, 40)),
    ],
)
def test_published_crop(box, size):
    assert crop_to_box(Image.new("RGB", (60, 40)), box).size == size


def test_published_crop_takes_the_right_pixels():
    picture = Image.new("L", (60, 40))
    picture.putdata([x + y for y in range(40) for x in range(60)])
    assert crop_to_box(picture, (30, 10, 10, 20)).getpixel((0, 0)) == 20 + 5


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_gray_and_cmyk_pictures_become_rgb(tmp_path, mode):
    write_picture(tmp_path / "a.jpg", colour=(120, 120, 120), mode=mode)
    picture = read_picture(Record("a", tmp_path / "a.jpg", ("a",), 0))
    assert picture.mode == "RGB"
    assert all(abs(value - 120) < 6 for value in picture.getpixel((5, 5)))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1"])
def test_transparency_is_laid_on_white(tmp_path, mode):
    Image.new("RGBA", (9, 9), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    clear = Record("a", tmp_path / "clear.png", ("a",), 0)
    assert read_picture(clear).getpixel((4, 4)) == (255, 255, 255)
    Image.new("RGBA", (9, 9), (255, 255, 255, 255)).convert(mode).save(tmp_path / "a.png")
    assert read_picture(Record("a", tmp_path / "a.png", ("a",), 0)).getpixel((4, 4)) == (255, 255, 255)


def test_missing_and_truncated_pictures_are_named(coco):
    data = open_small(coco)
    file = coco / "images/COCO_1.jpg"
    whole = file.read_bytes()
    for content in (whole[: len(whole) * 2 // 3], whole[:10], b"", b"no picture"):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"can't be read.*COCO_1\.jpg"):
            data[0]
    file.unlink()
    with pytest.raises(DataError, match=r"not found.*COCO_1\.jpg"):
        data[0]


def test_missing_picture_in_a_worker_is_named(pictures):
    data = open_small(pictures)
    (pictures / "p1.jpg").unlink()
    with pytest.raises(DataError, match=r"p1\.jpg"):
        list(make_loader(data, 4, workers=1))


def test_nothing_known_says_what_was_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"filenames\.pickle.*captions\.jsonl.*captions\.csv"):
        open_small(tmp_path)
    with pytest.raises(DataError, match="not a folder"):
        open_small(tmp_path / "absent")


def test_wrong_split_names_the_allowed_ones():
    with pytest.raises(InputError, match="train, test"):
        open_dataset("demo", "validation")


def test_caption_without_a_known_word_names_the_picture(pictures):
    with pytest.raises(DataError, match=r"p1\.jpg.*known word"):
        open_small(pictures, vocabulary=Vocabulary(["<end>", "zebra"]))


def test_unknown_words_are_dropped_and_captions_without_known_words_are_not_chosen(pictures):
    data = open_small(pictures, vocabulary=Vocabulary(["<end>", "the", "view"]))
    for epoch in range(6):
        data.set_epoch(epoch)
        assert data[0].length == 1
        assert data[0].caption[0] in (1, 2)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("train/filenames.pickle", ["only_one", "b", "c"], "do not divide among 3"),
        ("train/filenames.pickle", [], "no pictures"),
        ("train/filenames.pickle", {"a": 1}, "list of keys"),
        ("train/filenames.pickle", [1, 2], "list of keys"),
        ("train/class_info.pickle", [1], "expected 2 classes"),
        ("train/class_info.pickle", ["a", "b"], "whole number"),
        ("captions.pickle", [[[1]], []], "ixtoword"),
        ("captions.pickle", [3, 4, {0: "<end>"}, {}], "must be a list"),
        ("captions.pickle", [[[99], [1], [1], [1]], [[1]], {0: "<end>", 1: "a"}, {}], "index that ixtoword"),
        ("captions.pickle", [[1, 2], [[1]], {0: "<end>", 1: "a"}, {}], "caption"),
        ("captions.pickle", [[[-1], [1], [1], [1]], [[1]], {0: "<end>", 1: "a"}, {}], "index that ixtoword"),
    ],
)
def test_files_that_do_not_belong_together_are_named(cub, file, content, message):
    write_pickle(cub / file, content)
    with pytest.raises(DataError, match=message):
        open_small(cub)


@pytest.mark.parametrize("file", ["images.txt", "bounding_boxes.txt"])
def test_broken_box_files_are_named(cub, file):
    (cub / "CUB_200_2011" / file).write_text("1 2 3\n")
    with pytest.raises(DataError, match="box"):
        open_small(cub)
    (cub / "CUB_200_2011" / file).unlink()
    with pytest.raises(DataError, match="box"):
        open_small(cub)


def test_missing_text_and_missing_pictures_folder_are_named(coco):
    (coco / "text/COCO_2.txt").unlink()
    with pytest.raises(DataError, match="COCO_2"):
        open_small(coco)
    shutil.rmtree(coco / "images")
    with pytest.raises(DataError, match=r"images|COCO_2"):
        open_small(coco)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"picture": "a.jpg"', "jsonl:1: not JSON"),
        ("[1]", "expected an object"),
        ('{"picture": "a.jpg"}', "at least one caption"),
        ('{"picture": "a.jpg", "captions": []}', "at least one caption"),
        ('{"picture": "a.jpg", "captions": [" "]}', "at least one caption"),
        ('{"captions": ["a"]}', "a picture"),
        ('{"picture": "../a.jpg", "captions": ["a"]}', "outside the folder"),
        ('{"picture": "a.jpg", "captions": ["a"], "split": "train", "class_id": "x"}', "whole number"),
        ('{"picture": "a.jpg", "captions": ["a"], "split": "train", "class_id": [1]}', "whole number"),
        ("", "no pictures"),
    ],
)
def test_broken_caption_lines_are_named(tmp_path, line, message):
    (tmp_path / "captions.jsonl").write_text(line)
    with pytest.raises(DataError, match=message):
        open_small(tmp_path)


def test_csv_without_its_columns_is_refused(tmp_path):
    (tmp_path / "captions.csv").write_text("file,text\na.jpg,hello\n")
    with pytest.raises(DataError, match=r"column caption, picture is missing"):
        open_small(tmp_path)
