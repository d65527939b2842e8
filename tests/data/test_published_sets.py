"""Sets as they are published and as people make them: each layout is found out, read whole, and told from others."""

import io
import json
import tarfile

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import scipy.io
from miniature import write_pickle
from PIL import Image

from dmgan_fast.data import CaptionedPictures, open_dataset
from dmgan_fast.data.opening import read_set
from dmgan_fast.errors import DataError

SIDE = 8
COLOURS = ("maroon", "olive", "navy", "teal", "silver")


def image_bytes(number, kind="PNG"):
    stream = io.BytesIO()
    Image.new("RGB", (10 + number, 12), COLOURS[number % 5]).save(stream, kind)
    return stream.getvalue()


def put(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())


def draw(root, *names):
    """Images of growing width, in the order of their names."""
    for number, name in enumerate(names):
        kind = "PNG" if name.lower().endswith("png") else "WEBP" if name.lower().endswith("webp") else "JPEG"
        put(root / name, image_bytes(number, kind))


def said(number):
    return f"a {COLOURS[number % 5]} field\nfield number {number}\n"


def opened(root, split="train"):
    """The part, every image of which was decoded."""
    data = open_dataset(root, split, image_sizes=(SIDE,))
    assert all(item.images[0].shape == (3, SIDE, SIDE) for item in (data[k] for k in range(len(data))))
    return data


def keys(data: CaptionedPictures):
    return [record.key for record in data.records]


# COCO

PARTS = pytest.mark.parametrize(
    ("folders", "year"),
    [("{part}{year}", 2014), ("images/{part}{year}", 2017), ("images", 2014), ("", 2014)],
    ids=["parts", "parts in images", "images", "beside annotations"],
)


def coco(root, folders="{part}{year}", year=2014):
    for part, numbers in (("train", range(4)), ("val", range(4, 6))):
        names = [f"COCO_{part}_{number:012d}.jpg" for number in numbers]
        draw(root / folders.format(part=part, year=year), *names)
        content = {
            "info": {},
            "images": [{"id": 10 + k, "file_name": name, "height": 3} for k, name in enumerate(names)],
            "annotations": [
                {"id": 7 * k + j, "image_id": 10 + k, "caption": text}
                for j in (0, 1)
                for k, text in enumerate(said(number).split("\n")[j] for number in numbers)
            ],
        }
        put(root / f"annotations/captions_{part}{year}.json", json.dumps(content))
        put(root / f"annotations/instances_{part}{year}.json", '{"annotations": [], "images": [], "categories": []}')
    return root


@PARTS
def test_coco_as_published(tmp_path, folders, year):
    train, test = (opened(coco(tmp_path, folders, year), split) for split in ("train", "test"))
    assert (len(train), len(test)) == (4, 2)
    assert train.records[2].captions == ("a navy field", "field number 2")
    assert test.records[0].captions == ("a silver field", "field number 4")
    assert len({record.class_id for record in (*train.records, *test.records)}) == 6
    assert not train.records[0].upright


def test_coco_names_what_belongs_to_nothing(tmp_path):
    file = coco(tmp_path) / "annotations/captions_train2014.json"
    content = json.loads(file.read_text())
    content["annotations"] += [{"image_id": 99, "caption": "nobody"}, {"image_id": 10}]
    content["images"] += [{"id": 55, "file_name": "COCO_train_silent.jpg"}, {"file_name": "x.jpg"}]
    put(file, json.dumps(content))
    draw(tmp_path / "train2014", "COCO_train_silent.jpg")
    with pytest.raises(DataError, match=r"silent\.jpg has no caption.*an annotation needs.*an image needs"):
        open_dataset(tmp_path, image_sizes=(SIDE,))
    data = open_dataset(tmp_path, image_sizes=(SIDE,), skip_bad=3)
    assert (len(data), len(data.left_out)) == (4, 4)
    assert [item.name for item in data.left_out if item.kind == "text without an image"] == [
        "captions_train2014.json: captions of image 99"
    ]


def test_instances_without_captions_name_the_file_that_is_missing(tmp_path):
    coco(tmp_path)
    for file in tmp_path.glob("annotations/captions_*"):
        file.unlink()
    with pytest.raises(DataError, match=r"nearest is COCO as published.*without annotations/captions_\*\.json"):
        open_dataset(tmp_path)


def test_karpathys_json(tmp_path):
    draw(tmp_path / "images", *(f"{k}.jpg" for k in range(4)))
    rows = [
        {"filename": f"{k}.jpg", "split": split, "sentences": [{"raw": text} for text in said(k).split("\n") if text]}
        for k, split in enumerate(("train", "restval", "test", "val"))
    ]
    put(tmp_path / "dataset_flickr8k.json", json.dumps({"images": rows}))
    assert keys(opened(tmp_path)) == ["0.jpg", "1.jpg"]
    test = opened(tmp_path, "test")
    assert keys(test) == ["2.jpg"]
    assert [(item.name, item.kind) for item in test.left_out] == [("3.jpg", "in no split")]


# CUB

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


# Oxford flowers


def flowers(root, count=8):
    for number in range(1, count + 1):
        put(root / f"jpg/image_{number:05d}.jpg", image_bytes(number, "JPEG"))
        put(root / f"text_c10/class_{1 + number % 4:05d}/image_{number:05d}.txt", said(number))
    return root


def test_flowers_by_the_published_files(tmp_path):
    flowers(tmp_path)
    scipy.io.savemat(tmp_path / "imagelabels.mat", {"labels": np.array([[9, 9, 8, 8, 7, 7, 6, 6]], np.uint8)})
    parts = {"trnid": [[1, 2, 3]], "valid": [[4]], "tstid": [[5, 6, 7, 8]]}
    scipy.io.savemat(tmp_path / "setid.mat", {name: np.array(ids, np.uint16) for name, ids in parts.items()})
    train, test = opened(tmp_path), opened(tmp_path, "test")
    assert [(record.key, record.class_id) for record in train.records] == [
        ("image_00001", 9),
        ("image_00002", 9),
        ("image_00003", 8),
    ]
    assert keys(test) == [f"image_{k:05d}" for k in range(5, 9)]
    assert [item.name for item in train.left_out] == ["image_00004"]
    assert train.records[0].captions == ("a olive field", "field number 1")


def test_flowers_by_reeds_classes_and_without_any_list(tmp_path):
    train, test = (opened(flowers(tmp_path), split) for split in ("train", "test"))
    assert len(train) + len(test) == 8
    assert len(test) >= 1
    assert train.records[0].class_id != train.records[1].class_id  # the folders of the captions
    put(tmp_path / "trainvalclasses.txt", "class_00001\nclass_00002\nclass_00003\n")
    put(tmp_path / "testclasses.txt", "class_00004\n")
    assert keys(opened(tmp_path, "test")) == ["image_00003", "image_00007"]


def test_flowers_with_broken_or_other_files_name_them(tmp_path):
    put(flowers(tmp_path) / "setid.mat", b"no matlab")
    with pytest.raises(DataError, match=r"setid\.mat can't be read"):
        open_dataset(tmp_path)
    scipy.io.savemat(tmp_path / "setid.mat", {"train": [1]})
    with pytest.raises(DataError, match=r"setid\.mat: the variable trnid is missing; has train"):
        open_dataset(tmp_path)


# Hugging Face


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("parts", [True, False], ids=["train and test", "one folder"])
def test_imagefolder_metadata(tmp_path, kind, parts):
    for part, numbers in (("train", range(4)), ("test", range(4, 6))):
        folder = tmp_path / part if parts else tmp_path
        names = [f"{number}.png" for number in numbers]
        draw(folder, *names)
        rows = [{"file_name": name, "text": f"field number {name[0]}", "split": part} for name in names]
        if parts:
            rows = [{"file_name": row["file_name"], "text": row["text"]} for row in rows]
        write_metadata(folder / f"metadata.{kind}", rows)
    train, test = opened(tmp_path), opened(tmp_path, "test")
    assert [record.key.split("/")[-1] for record in train.records] == ["0.png", "1.png", "2.png", "3.png"]
    assert [record.captions for record in test.records] == [("field number 4",), ("field number 5",)]


def write_metadata(file, rows):
    """Write rows, those that are there already before them."""
    if file.suffix == ".parquet":
        if file.exists():
            rows = [*pyarrow.parquet.read_table(file).to_pylist(), *rows]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
        return
    if file.suffix == ".csv":
        lines = [] if file.exists() else [",".join(rows[0])]
        lines += [",".join(row.values()) for row in rows]
    else:
        lines = [json.dumps(row) for row in rows]
    put(file, (file.read_text() if file.exists() else "") + "\n".join(lines) + "\n")


def test_imagefolder_captions_and_classes_by_other_names(tmp_path):
    draw(tmp_path, "a.png", "b.png", "c.png")
    rows = [
        {"file_name": "a.png", "Prompt": ["one", "two"], "label": "cat"},
        {"file_name": "b.png", "Prompt": "three", "label": "dog"},
        {"file_name": "c.png", "Prompt": "four", "label": "cat"},
        {"file_name": "b.png", "Prompt": "five", "label": "dog"},
    ]
    put(tmp_path / "metadata.jsonl", "\n".join(json.dumps(row) for row in rows))
    found = {row.record.key: row.record for row in read_set(tmp_path).rows}
    assert {key: record.captions for key, record in found.items()} == {
        "a.png": ("one", "two"),
        "b.png": ("three", "five"),
        "c.png": ("four",),
    }
    assert found["a.png"].class_id == found["c.png"].class_id != found["b.png"].class_id


def test_imagefolder_without_a_column_of_captions_names_those_there_are(tmp_path):
    draw(tmp_path, "a.png")
    put(tmp_path / "metadata.csv", "file_name,note,other\na.png,red,blue\n")
    with pytest.raises(DataError, match=r"no column of captions; one of text, caption.*has file_name, note, other"):
        open_dataset(tmp_path)


def test_parquet_files_of_the_hub_with_images_inside(tmp_path):
    for part, numbers in (("train", range(5)), ("test", range(5, 7))):
        table = pyarrow.table(
            {
                "image": [{"bytes": image_bytes(k), "path": None} for k in numbers],
                "text": [f"field number {k}" for k in numbers],
                "label": [k % 2 for k in numbers],
            }
        )
        (tmp_path / "data").mkdir(exist_ok=True)
        pyarrow.parquet.write_table(table, tmp_path / f"data/{part}-00000-of-00001.parquet", row_group_size=2)
    train, test = opened(tmp_path), opened(tmp_path, "test")
    assert [record.captions[0] for record in train.records] == [f"field number {k}" for k in range(5)]
    assert [record.class_id for record in test.records] == [1, 0]
    assert any("dmgan-fast convert" in note for note in read_set(tmp_path).notes)


# Made by hand


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


def shard(file, samples):
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as archive:
        for name, content in samples:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_webdataset_shards_are_read_in_any_order(tmp_path):
    for part, numbers in (("train", range(5)), ("test", range(5, 7))):
        samples = []
        for k in numbers:
            samples += [(f"./{k:04d}.png", image_bytes(k)), (f"./{k:04d}.cls", b"%d" % (k % 2))]
            samples += [(f"./{k:04d}.json", json.dumps({"caption": f"field number {k}"}).encode())]
        shard(tmp_path / f"{part}-000000.tar", samples)
    train, test = opened(tmp_path), opened(tmp_path, "test")
    assert [record.captions[0] for record in train.records] == [f"field number {k}" for k in range(5)]
    assert [record.class_id for record in test.records] == [1, 0]
    whole = open_dataset(tmp_path, image_sizes=(12,), augment=False)
    assert whole[4].images[0][:, 6, 6].tolist() == pytest.approx([0.506] * 3, abs=0.01)  # silver


def test_shards_in_folders_of_parts_and_a_single_shard(tmp_path):
    for part, k in (("train", 0), ("train", 1), ("val", 2)):
        shard(tmp_path / part / f"{k:06d}.tar", [(f"{k}.jpg", image_bytes(k, "JPEG")), (f"{k}.txt", said(k).encode())])
    assert keys(opened(tmp_path)) == ["train/000000.tar:0", "train/000001.tar:1"]
    assert keys(opened(tmp_path, "test")) == ["val/000002.tar:2"]
    assert read_set(tmp_path / "train/000000.tar").rows[0].record.captions == ("a maroon field", "field number 0")


def test_a_shard_that_is_cut_off_is_named_and_so_is_a_packed_one(tmp_path):
    file = tmp_path / "train-0.tar"
    shard(
        file,
        [(f"{k}{end}", image_bytes(k) if end == ".png" else b"a field") for k in range(4) for end in (".png", ".txt")],
    )
    put(tmp_path / "test-0.tar.gz", b"packed")
    whole = file.read_bytes()
    for size in (4096, 4300, 4650, 5120):  # before, in and after a header, in a member
        file.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"train-0\.tar is cut off or damaged after \d samples"):
            open_dataset(tmp_path, image_sizes=(SIDE,))
    assert any("test-0.tar.gz" in note for note in read_set(tmp_path).notes)
    put(file, b"no archive at all")
    with pytest.raises(DataError, match=r"train-0\.tar can't be read as a tar archive"):
        open_dataset(tmp_path)


# AttnGAN's layout, as people fill it


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
    assert [record.picture for record in train.records] == [tmp_path / folder / name for name in names[:3]]
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


# What was saved in place of files

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (POINTER, "it is a Git LFS pointer that stands for the file of 12,345 bytes: .* `git lfs pull`"),
        ("<!DOCTYPE html>\n<html><body>404</body></html>", "it is a web page, saved in place .* fetch it again"),
        ("", "it is an empty file: the download broke off; fetch it again"),
        ("some text", "it is no image, or of a kind that is not read"),
    ],
)
def test_what_is_no_image_is_named_as_what_it_is(tmp_path, content, why):
    draw(tmp_path, "a.jpg", "b.jpg")
    put(tmp_path / "a.jpg", content)
    put(tmp_path / "captions.csv", "picture,caption,split\na.jpg,red,train\nb.jpg,blue,test\n")
    with pytest.raises(DataError, match=rf"a\.jpg: {why}$"):
        _ = open_dataset(tmp_path, image_sizes=(SIDE,))[0]


@pytest.mark.parametrize(
    "name", ["captions.jsonl", "metadata.csv", "metadata.parquet", "train/filenames.pickle", "train-0.tar", "setid.mat"]
)
def test_a_pointer_in_place_of_a_list_is_named(tmp_path, name):
    if name == "setid.mat":
        flowers(tmp_path)
    put(tmp_path / name, POINTER)
    with pytest.raises(DataError, match=rf"{name}.* can't be read: it is a Git LFS pointer"):
        open_dataset(tmp_path)


# Sets that are only for training


@pytest.mark.parametrize("layout", ["imagefolder", "parquet", "shards", "lists"])
def test_of_what_is_there_for_training_only_some_is_held_out_and_a_note_says_so(tmp_path, layout):
    numbers = range(12)
    if layout == "imagefolder":
        draw(tmp_path / "train", *(f"{k}.png" for k in numbers))
        rows = [{"file_name": f"{k}.png", "text": f"field {k}"} for k in numbers]
        write_metadata(tmp_path / "train/metadata.csv", rows)
    elif layout == "parquet":
        table = pyarrow.table({"image": [image_bytes(k) for k in numbers], "text": [f"field {k}" for k in numbers]})
        pyarrow.parquet.write_table(table, tmp_path / "train-00000-of-00001.parquet")
    elif layout == "shards":
        shard(
            tmp_path / "train-0.tar",
            [(f"{k}{e}", c) for k in numbers for e, c in ((".png", image_bytes(k)), (".txt", b"a"))],
        )
    else:
        draw(tmp_path / "images", *(f"{k}.png" for k in numbers))
        put(tmp_path / "train.txt", "\n".join(map(str, numbers)))
        for k in numbers:
            put(tmp_path / f"text/{k}.txt", said(k))
    train, test = opened(tmp_path), opened(tmp_path, "test")
    assert len(train) + len(test) == 12
    assert len(train) > len(test) >= 1
    assert any("one image in ten is held out" in note for note in read_set(tmp_path).notes)


# What is not known


def test_a_set_one_level_up_or_down_is_pointed_at(tmp_path):
    coco(tmp_path / "sets/coco")
    with pytest.raises(DataError, match=r"sets/coco' is one \(COCO"):
        open_dataset(tmp_path / "sets")
    with pytest.raises(DataError, match=r"sets/coco' is one \(COCO"):
        open_dataset(tmp_path / "sets/coco/train2014")
    with pytest.raises(DataError, match="a file, not a folder"):
        open_dataset(tmp_path / "sets/coco/annotations/captions_train2014.json")


def test_images_without_captions_say_what_is_missing_and_what_is_there(tmp_path):
    draw(tmp_path, "cats/a.jpg", "dogs/b.jpg")
    with pytest.raises(DataError, match=r"with images, but without captions\.jsonl.*holds cats/, dogs/.*docs/data\.md"):
        open_dataset(tmp_path)
