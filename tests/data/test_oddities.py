"""What is odd in real copies of CUB and COCO, and in people's own folders, read through the whole data set."""

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from dmgan_fast.data import open_dataset
from dmgan_fast.data.dataset import Record, read_image
from dmgan_fast.errors import DataError
from tests.data.miniature import write_pickle, write_picture

SIDE = 32
ORIENTATION = 0x0112  # EXIF tag
QUARTER_TURN = 6  # shown turned clockwise by 90 degrees


def tree(root, pictures, *, captions="a bird", boxes=None, class_ids=None):
    """CUB (with boxes) or COCO (without): ``pictures`` maps keys to Pillow pictures, ``captions`` keys to text."""
    images = root / "CUB_200_2011" / "images" if boxes else root / "images"
    for split in ("train", "test"):
        write_pickle(root / split / "filenames.pickle", list(pictures))
        if class_ids:
            write_pickle(root / split / "class_info.pickle", class_ids)
    for number, (key, picture) in enumerate(pictures.items(), start=1):
        (images / key).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(picture, bytes):
            (images / f"{key}.jpg").write_bytes(picture)
        else:
            kind = "PNG" if picture.mode in ("P", "RGBA", "LA", "1", "I;16") else "JPEG"  # PNGs named .jpg do occur
            picture.save(images / f"{key}.jpg", kind, **picture.info)
        text = captions if isinstance(captions, (str, bytes)) else captions[key]
        (root / "text" / key).parent.mkdir(parents=True, exist_ok=True)
        content = text if isinstance(text, bytes) else text.encode()
        (root / "text" / f"{key}.txt").write_bytes(content)
        if boxes:
            cub, box = root / "CUB_200_2011", boxes[number - 1]
            with (cub / "images.txt").open("a") as names, (cub / "bounding_boxes.txt").open("a") as lines:
                names.write(f"{number} {key}.jpg\r\n")
                lines.write(f"{number} {' '.join(map(str, box))}\r\n")
    return root


def small(root, split="train", **options):
    return open_dataset(root, split, image_sizes=(SIDE,), augment=False, **options)


def halves(left, right, size=(80, 60), mode="RGB"):
    picture = Image.new(mode, size, left)
    picture.paste(right, (size[0] // 2, 0, *size))
    return picture


def palette_with_transparency():
    """Left: a transparent entry, right: blue."""
    picture = Image.new("P", (80, 60), 0)
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.paste(1, (40, 0, 80, 60))
    picture.info["transparency"] = 0
    return picture


def sixteen_bits():
    return Image.fromarray(np.repeat(np.array([[0] * 40 + [128 * 257] * 40], np.uint16), 60, 0))


BLACK, WHITE, BLUE, GRAY = (-1, -1, -1), (1, 1, 1), (-1, -1, 1), (0, 0, 0)


@pytest.mark.parametrize(
    ("picture", "left", "right"),
    [
        pytest.param(halves(0, 255, mode="L"), BLACK, WHITE, id="gray"),
        pytest.param(halves((0, 0, 0, 255), (255, 255, 0, 0), mode="CMYK"), BLACK, BLUE, id="cmyk"),
        pytest.param(palette_with_transparency(), WHITE, BLUE, id="palette with transparency"),
        pytest.param(halves((9, 9, 9, 0), (0, 0, 255, 255), mode="RGBA"), WHITE, BLUE, id="rgba"),
        pytest.param(halves((0, 128), (128, 255), mode="LA"), (0, 0, 0), GRAY, id="gray with alpha"),
        pytest.param(halves(0, 1, mode="1"), BLACK, WHITE, id="black and white"),
        pytest.param(sixteen_bits(), BLACK, GRAY, id="16 bits"),
    ],
)
@pytest.mark.parametrize("boxes", [[(20, 10, 40, 40)], None], ids=["cub", "coco"])
def test_pictures_of_every_kind_have_their_colours(tmp_path, boxes, picture, left, right):
    image = small(tree(tmp_path, {"001.A/a": picture}, boxes=boxes))[0].images[0]
    assert image.shape == (3, SIDE, SIDE)
    for column, expected in ((2, left), (SIDE - 3, right)):
        assert image[:, SIDE // 2, column].tolist() == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize(
    "box",
    [
        pytest.param((40.0, 30.0, 1.0, 1.0), id="one pixel"),
        pytest.param((79.0, 59.0, 1.0, 1.0), id="one pixel in the corner"),
        pytest.param((40, 30, 2, 2), id="two pixels"),
        pytest.param((-10, -10, 30, 30), id="beyond left and top"),
        pytest.param((60, 40, 500, 500), id="beyond right and bottom"),
        pytest.param((5000, 5000, 10, 10), id="far away"),
        pytest.param((10.7, 5.2, 33.3, 20.9), id="fractions"),
        pytest.param((0, 0, 0, 0), id="empty"),
        pytest.param((70, 0, 1, 60), id="one pixel wide"),
    ],
)
def test_every_box_gives_a_square_of_the_side_asked_for(tmp_path, box):
    data = small(tree(tmp_path, {"001.A/a": halves("black", "white")}, boxes=[box]))
    image = data[0].images[0]
    assert image.shape == (3, SIDE, SIDE)
    assert image.isfinite().all()


def test_a_box_of_no_area_shows_the_whole_picture(tmp_path):
    whole = halves("black", "white")
    image = small(tree(tmp_path, {"001.A/a": whole}, boxes=[(70, 30, 1, 1)]))[0].images[0]
    assert image[0, 5, 2] < -0.9
    assert image[0, 5, -3] > 0.9


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3)], ids=["1x1", "narrow", "flat"])
def test_tiny_and_narrow_pictures_are_enlarged(tmp_path, size):
    image = small(tree(tmp_path, {"a": Image.new("RGB", size, "white")}))[0].images[0]
    assert image.shape == (3, SIDE, SIDE)
    assert image.min() > 0.9


def turned(file, mode="RGB"):
    """Stored black left, white right; shown black above, white below, which is a quarter turn."""
    picture = halves("black", "white", size=(60, 60), mode=mode)
    exif = Image.Exif()
    exif[ORIENTATION] = QUARTER_TURN
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.save(file, "JPEG", exif=exif)


def test_cub_and_coco_are_read_as_stored_because_boxes_are_measured_so(tmp_path):
    for name, boxes in (("cub", [(10, 10, 40, 40)]), ("coco", None)):
        root = tree(tmp_path / name, {"001.A/a": halves("red", "red")}, boxes=boxes)
        turned(next(root.rglob("a.jpg")))
        image = small(root)[0].images[0]
        assert image[0, SIDE // 2, 2] < -0.9 < 0.9 < image[0, SIDE // 2, -3]


def test_pictures_of_any_folder_are_turned_upright(tmp_path):
    turned(tmp_path / "a.jpg")
    (tmp_path / "captions.jsonl").write_text('{"image": "a.jpg", "captions": ["a"], "split": "train"}')
    image = small(tmp_path)[0].images[0]
    assert image[0, 2, SIDE // 2] < -0.9 < 0.9 < image[0, -3, SIDE // 2]


WORDS = [f"word{k}" for k in range(60)]


@pytest.mark.parametrize("pickled", [True, False], ids=["captions.pickle", "text"])
def test_captions_of_one_and_of_sixty_words(tmp_path, pickled):
    root = tree(
        tmp_path,
        {"a": halves("red", "red"), "b": halves("red", "red")},
        captions={"a": "bird\n", "b": " ".join(WORDS) + ".\n"},
    )
    if pickled:
        index = {word: k for k, word in enumerate(["<end>", "bird", *WORDS])}
        rows = [[index["bird"]], [index[word] for word in WORDS]]
        write_pickle(root / "captions.pickle", [rows, rows, {k: word for word, k in index.items()}, index])
    data = small(root, max_words=18)
    one, long = data[0], data[1]
    assert data.vocabulary.decode(one.caption.tolist()) == ["bird"]
    assert one.length == 1
    kept = data.vocabulary.decode(long.caption.tolist())
    assert len(kept) == long.length == 18
    positions = [WORDS.index(word) for word in kept]
    assert positions == sorted(positions)
    assert max(positions) > 17  # not simply the first words


def test_captions_in_every_script_and_with_windows_line_ends(tmp_path):
    text = "Ein großer Käfer!\r\n\r\n  鸟 是 红色的\r\nптица с крыльями\r\n"
    data = small(tree(tmp_path, {"a": halves("red", "red")}, captions=text))
    assert data.records[0].captions == ("Ein großer Käfer!", "鸟 是 红色的", "птица с крыльями")
    assert {"großer", "鸟", "крыльями"} <= set(data.vocabulary.words)


@pytest.mark.parametrize(
    ("content", "captions"),
    [
        pytest.param(b"\xef\xbb\xbfa bird\n", ("a bird",), id="byte order mark"),
        pytest.param("a bird\u0085with wings\nred\n".encode(), ("a bird\u0085with wings", "red"), id="next line"),
        pytest.param(b"a bird \xff\xfe with wings\n", ("a bird \ufffd\ufffd with wings",), id="broken bytes"),
        pytest.param("a bird\ufffd\ufffds wing\n".encode(), ("a bird\ufffd\ufffds wing",), id="replacement marks"),
        pytest.param(b"a bird\n...\n", ("a bird", "..."), id="a caption without words"),
    ],
)
def test_text_files_as_they_come(tmp_path, content, captions):
    data = small(tree(tmp_path, {"a": halves("red", "red")}, captions=content))
    assert data.records[0].captions == captions
    for epoch in range(4):
        data.set_epoch(epoch)
        assert data.vocabulary.decode(data[0].caption.tolist())[0] in ("a", "red")


@pytest.mark.parametrize("content", [b"", b"\r\n\r\n", b" ... \n"], ids=["empty", "blank lines", "no word"])
def test_a_picture_without_captions_is_named(tmp_path, content):
    root = tree(tmp_path, {k: halves("red", "red") for k in "ab"}, captions={"a": "a bird", "b": content})
    with pytest.raises(DataError, match="b has no caption with a known word"):
        small(root)


def test_a_missing_caption_file_and_missing_rows_are_named(tmp_path):
    root = tree(tmp_path, {k: halves("red", "red") for k in "ab"})
    (root / "text" / "b.txt").unlink()
    with pytest.raises(DataError, match=r"captions can't be read: .*b\.txt"):
        small(root)
    words = {0: "<end>", 1: "bird"}
    write_pickle(root / "captions.pickle", [[[1], [1], [1]], [[1], [1]], words, {"bird": 1}])
    with pytest.raises(DataError, match="3 train captions do not divide among 2 images"):
        small(root)
    write_pickle(root / "captions.pickle", [[[1], []], [[1], [1]], words, {"bird": 1}])
    with pytest.raises(DataError, match="b has no caption with a known word"):
        small(root)


def test_pickles_of_python_2(tmp_path):
    """Keys as byte strings, captions as numpy-free lists, classes as a list: what the authors' archives hold."""
    root = tree(tmp_path, {"COCO_val2014_000000000042": halves("red", "red")})
    key = b"COCO_val2014_000000000042"
    for split in ("train", "test"):
        old = b"(lp0\nS'" + key + b"'\np1\na."  # protocol 0, as Python 2 writes a list of one str
        assert pickle.loads(old) == [key.decode()]
        (root / split / "filenames.pickle").write_bytes(old)
        (root / split / "class_info.pickle").write_bytes(b"(lp0\nI7\na.")
    (record,) = small(root, "test").records
    assert (record.key, record.class_id) == (key.decode(), 7)


@pytest.mark.parametrize("share", [0.9, 0.5, 0.02])
@pytest.mark.parametrize("boxes", [[(10, 10, 40, 40)], None], ids=["cub", "coco"])
def test_a_truncated_picture_is_named(tmp_path, boxes, share):
    root = tree(tmp_path, {"001.A/a": halves("red", "blue", size=(300, 200))}, boxes=boxes)
    file = next(root.rglob("a.jpg"))
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    with pytest.raises(DataError, match=r"image can't be read: .*a\.jpg"):
        _ = small(root)[0]


def test_floating_point_pictures_are_refused_by_name(tmp_path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif: its pixels are floating-point numbers"):
        read_image(Record("a", tmp_path / "a.tif", ("a",), 0))


def test_box_files_with_a_byte_order_mark(tmp_path):
    root = tree(tmp_path, {"001.A/a": halves("black", "white")}, boxes=[(30, 20, 20, 20)])
    for name in ("images.txt", "bounding_boxes.txt"):
        file = root / "CUB_200_2011" / name
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert small(root).records[0].box == (30, 20, 20, 20)


def test_oddities_together_give_the_same_data_for_any_number_of_workers(tmp_path):
    from dmgan_fast.data import make_loader

    pictures = {"gray": halves(0, 255, mode="L"), "palette": palette_with_transparency(), "deep": sixteen_bits()}
    pictures["cmyk"] = halves((0, 0, 0, 255), (255, 255, 0, 0), mode="CMYK")
    root = tree(tmp_path, pictures, captions={key: f"{key} bird\nред\n" for key in pictures})
    data = open_dataset(root, image_sizes=(16, SIDE))
    batches = [list(make_loader(data, 2, workers=workers)) for workers in (0, 2)]
    for one, other in zip(*batches, strict=True):
        assert one.keys == other.keys
        assert all(torch.equal(a, b) for a, b in zip(one.images, other.images, strict=True))
        assert torch.equal(one.captions, other.captions)


def test_a_folder_with_windows_line_ends_and_a_byte_order_mark(tmp_path):
    write_picture(tmp_path / "Bär 1.jpg")
    line = json.dumps({"image": "Bär 1.jpg", "captions": ["a bear"], "split": "train"}, ensure_ascii=False)
    (tmp_path / "captions.jsonl").write_bytes(b"\xef\xbb\xbf" + line.encode() + b"\r\n\r\n")
    assert small(tmp_path)[0].key == "Bär 1.jpg"
