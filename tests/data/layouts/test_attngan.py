"""The layout of AttnGAN's users."""

import shutil

import pytest

from dmgan_fast.data import open_dataset
from dmgan_fast.errors import DataError
from tests.data.miniature import write_pickle
from tests.data.published import SIDE, draw, flowers, keys, opened, put, said
from tests.data.small import open_small


def attngan(root, names, folder="images", spell=lambda name: name, pickled=True):
    draw(root / folder, *names)
    stems = [name.rpartition(".")[0] for name in names]
    for split, part in (("train", stems[:3]), ("test", stems[3:])):
        write_pickle(root / split / "filenames.pickle", [spell(stem) for stem in part])
    for number, stem in enumerate(stems):
        put(root / f"text/{stem}.txt", said(number))
    if pickled:
        rows = [[1, 2], [2], [1, 1], [2, 2]]
        write_pickle(root / "captions.pickle", [rows[:3], rows[3:], {0: "<end>", 1: "red", 2: "field"}, {}])
    return root


@pytest.mark.parametrize("pickled", [True, False], ids=["captions.pickle", "text"])
@pytest.mark.parametrize(
    ("names", "folder", "spell"),
    [
        (["a.png", "b.PNG", "c.jpeg", "d.JPG"], "images", lambda key: key),
        (["a.jpg", "b.jpg", "c.jpg", "d.jpg"], "images", lambda key: f"{key}.jpg"),
        (["a.png", "b.png", "c.png", "d.png"], "images", lambda key: f"{key}.jpg"),
        (["x/a.jpg", "x/b.jpg", "y/c.jpg", "y/d.jpg"], "images", lambda key: key.replace("/", "\\")),
        (["x/a.jpg", "x/b.jpg", "y/c.jpg", "y/d.jpg"], "CUB_200_2011/images", lambda key: key),
        (
            ["train2014/a.jpg", "train2014/b.jpg", "val2014/c.jpg", "val2014/d.jpg"],
            "images",
            lambda key: key.split("/")[1],
        ),
        (["train2014/a.jpg", "train2014/b.jpg", "val2014/c.jpg", "val2014/d.jpg"], "", lambda key: key.split("/")[1]),
    ],
    ids=["extensions", "keys with one", "keys with another", "backslashes", "sub-folders", "parts", "parts at the top"],
)
def test_attngans_layout_with_other_names(tmp_path, names, folder, spell, pickled):
    attngan(tmp_path, names, folder, spell, pickled)
    if folder.startswith("CUB"):
        put(tmp_path / "CUB_200_2011/images.txt", "".join(f"{k} {name}\n" for k, name in enumerate(names)))
        put(tmp_path / "CUB_200_2011/bounding_boxes.txt", "".join(f"{k} 1 1 5 5\n" for k in range(4)))
    train, test = opened(tmp_path), opened(tmp_path, "test")
    assert [record.file for record in train.records] == [tmp_path / folder / name for name in names[:3]]
    assert test.records[0].captions == (("field field",) if pickled else ("a teal field", "field number 3"))


def test_flowers_in_attngans_layout(tmp_path):
    flowers(tmp_path)
    for split, numbers in (("train", range(1, 6)), ("test", range(6, 9))):
        write_pickle(tmp_path / split / "filenames.pickle", [f"image_{k:05d}" for k in numbers])
    assert opened(tmp_path, "test").records[0].captions == ("a olive field", "field number 6")


def test_two_images_for_one_key_are_not_guessed_between(tmp_path):
    attngan(tmp_path, ["a.png", "b.jpg", "c.jpg", "d.jpg"])
    draw(tmp_path / "images", "a.webp")
    with pytest.raises(DataError, match=r"a: image 2 files fit 'a': a\.png, a\.webp"):
        open_dataset(tmp_path, image_sizes=(SIDE,))


def test_all_images_that_a_set_misses_are_named_at_once(tmp_path):
    attngan(tmp_path, ["a.jpg", "b.jpg", "c.jpg", "d.jpg"])
    for name in "ac":
        (tmp_path / f"images/{name}.jpg").unlink()
    with pytest.raises(DataError, match=r"a: image not found.*c: image not found.*2 of 4 can't be used.*skip_bad=2"):
        open_dataset(tmp_path, image_sizes=(SIDE,))
    data = open_dataset(tmp_path, image_sizes=(SIDE,), skip_bad=2)
    assert (keys(data), [item.name for item in data.left_out]) == (["b"], ["a", "c"])


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


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("train/filenames.pickle", ["only_one", "b", "c"], "do not divide among 3"),
        ("train/filenames.pickle", [], "no images"),
        ("train/filenames.pickle", {"a": 1}, "list of keys"),
        ("train/filenames.pickle", [1, 2], "list of keys"),
        ("train/class_info.pickle", [1], "expected 2 classes"),
        ("train/class_info.pickle", ["a", "b"], "whole number"),
        ("captions.pickle", [[[1]], []], "ixtoword"),
        ("captions.pickle", [3, 4, {0: "<end>"}, {}], "must be a list"),
        ("captions.pickle", [[], [], {0: "<end>", 2: "a"}, {}], r"captions\.pickle: vocabulary: indices must be"),
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
