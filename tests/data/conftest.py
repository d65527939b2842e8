"""Miniature data sets in the layouts of AttnGAN's users, written file by file."""

import json
import os
import tempfile
from pathlib import Path

import pytest
from PIL import Image

from tests.data.miniature import write_pickle, write_picture
from tests.data.trees import Tree

WORDS = {0: "<end>", 1: "a", 2: "red", 3: "blue", 4: "bird", 5: "with", 6: "long", 7: "wings"}


@pytest.fixture
def cub(tmp_path):
    """Two training pictures and one test picture, two captions each."""
    keys = ["001.Ä_Bird/Bird_1", "001.Ä_Bird/Bird_2", "002.Wren/Wren_1"]
    write_pickle(tmp_path / "train/filenames.pickle", keys[:2])
    write_pickle(tmp_path / "test/filenames.pickle", keys[2:])
    write_pickle(tmp_path / "train/class_info.pickle", [7, 9])
    write_pickle(tmp_path / "test/class_info.pickle", [11])
    rows = [[1, 2, 4], [1, 3, 4], [1, 6, 4, 5, 7], [2, 4]]
    write_pickle(tmp_path / "captions.pickle", [rows, [[3, 4], [3]], WORDS, {word: k for k, word in WORDS.items()}])
    for key in keys:
        write_picture(tmp_path / f"CUB_200_2011/images/{key}.jpg")
    listed = "".join(f"{k} {key}.jpg\r\n" for k, key in enumerate(keys, start=1))
    (tmp_path / "CUB_200_2011/images.txt").write_bytes(listed.encode())
    (tmp_path / "CUB_200_2011/bounding_boxes.txt").write_bytes(
        b"1 10.0 5.0 20.0 10.0\r\n2 3.0 3.0 1.0 1.0\r\n3 50.0 30.0 500.0 500.0\r\n"
    )
    return tmp_path


@pytest.fixture
def coco(tmp_path):
    """Two training pictures, one test picture; captions in text files, no classes, no boxes."""
    write_pickle(tmp_path / "train/filenames.pickle", ["COCO_1", "COCO_2"])
    write_pickle(tmp_path / "test/filenames.pickle", ["COCO_3"])
    (tmp_path / "text").mkdir()
    for key in ("COCO_1", "COCO_2", "COCO_3"):
        write_picture(tmp_path / f"images/{key}.jpg")
        (tmp_path / f"text/{key}.txt").write_bytes(b"A red bird.\r\n\r\nA Caf\xc3\xa9, blue\r\n")
    return tmp_path


@pytest.fixture
def pictures(tmp_path):
    """Twelve plain pictures of different colours with JSONL captions, eight of them for training."""
    rows = []
    for k in range(12):
        write_picture(tmp_path / f"p{k}.jpg", size=(50 + k, 40), colour=(20 * k, 100, 255 - 20 * k))
        said = [f"picture number {k} with word{k} and more words after it", f"another view of {k}", f"the {k}"]
        row = {"image": f"p{k}.jpg", "captions": said, "class_id": k % 3, "split": "test" if k % 3 == 0 else "train"}
        rows.append(json.dumps(row))
    (tmp_path / "captions.jsonl").write_text("\r\n".join(rows), encoding="utf-8")
    return tmp_path


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where to make thousands of folders: in memory if there is such a place."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def pool(place):
    """Images written once and linked into each tree."""
    folder = place / "pool"
    folder.mkdir()
    for name, size, mode in (("good", (4, 3), "RGB"), ("tiny", (1, 1), "RGB"), ("gray", (3, 4), "L")):
        Image.new(mode, size, "white").save(folder / f"{name}.png")
    Image.new("RGB", (4, 4), "red").save(folder / "good.jpg")
    for name in ("good.png", "good.jpg"):
        content = (folder / name).read_bytes()
        (folder / f"cut.{name[5:]}").write_bytes(content[: len(content) // 2])
    (folder / "empty").touch()
    (folder / "text").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def new_tree(place):
    """Folders that vanish at once."""

    def make():
        return Tree(Path(tempfile.mkdtemp(dir=place)))

    return make
