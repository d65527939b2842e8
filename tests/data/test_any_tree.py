"""Whatever a tree holds, nothing crashes and no row is lost: rows read + rows named as left out = rows there."""

import io
import json
import logging
import os
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmgan_fast.data import Purpose, check_data, open_dataset
from dmgan_fast.data.rows import BAD
from dmgan_fast.errors import DataError, DMGANError
from tests.data.miniature import write_pickle
from tests.data.trees import CAPTIONS, IMAGES, NAMES, ROWS, SUFFIXES, WORDS, cases, mostly

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def quiet():
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def tried(function, *arguments, **options):
    """What a function gives, or None and the message of the error that a user may get."""
    try:
        return function(*arguments, **options), ""
    except DMGANError as error:
        return None, str(error)


def judged(root, rows, lines=None):
    """Open and check what lies in ``root``, which holds ``rows`` rows; the report, or None if it was refused whole."""
    report, refused = tried(check_data, root, Purpose(image_size=2, batch_size=2))
    if report is None:
        with pytest.raises(DMGANError):
            open_dataset(root, image_sizes=(2,))
        assert str(root) in refused
        return None
    found = json.loads(report.to_json())
    report.text().encode()
    assert len(found["left_out"]) == len(report.facts.left_out)
    assert found["train"] + found["test"] + len(found["left_out"]) == found["rows"]
    assert found["lines" if lines is not None else "rows"] == (rows if lines is None else lines)
    assert all(item["name"] and item["why"] for item in found["left_out"])
    opened(root, report)
    return report


def opened(root, report):
    """Both parts hold every row that is not named as left out, and refuse to leave any out unless told to."""
    count = 0
    for split in ("train", "test"):
        pictures, refused = tried(open_dataset, root, split, image_sizes=(2,), skip_bad=10**6)
        if pictures is None:
            assert "no images in its" in refused
            return
        count += len(pictures) + len(pictures.left_out)
        if split == "train" and any(item.kind in BAD for item in pictures.left_out):
            with pytest.raises(DataError, match="can't be used"):
                open_dataset(root, split, image_sizes=(2,))
    of_both = len(report.facts.contents.lost) + len(report.facts.contents.in_no_split())
    assert count - of_both == report.facts.rows


ENCODINGS = st.sampled_from(("utf-8", "utf-8-sig", "utf-16", "latin-1"))


@cases(400)
@given(rows=ROWS, encoding=ENCODINGS, ends=st.sampled_from(("\n", "\r\n")))
def test_captions_jsonl(pool, new_tree, rows, encoding, ends):
    with new_tree() as tree:
        lines = []
        for row in rows:
            name = row["name"] + row["suffix"]
            tree.image(pool, name.replace("\\", "_"), row["image"])
            line = {"image": name, "captions": row["captions"]} | {k: row[k] for k in ("class_id", "split") if k in row}
            lines.append(row.get("broken") or json.dumps(line))
        (tree.root / "captions.jsonl").write_bytes(ends.join(lines).encode(encoding))
        judged(tree.root, None, lines=len(lines))


@cases(200)
@given(rows=ROWS, divider=st.sampled_from(",;\t"), extra=st.booleans())
def test_captions_csv(pool, new_tree, rows, divider, extra):
    with new_tree() as tree:
        lines, count = [divider.join(("image", "caption", "split", "class_id"))], 0
        for row in rows:
            name = row["name"] + row["suffix"]
            tree.image(pool, name.replace("\\", "_"), row["image"])
            for said in row["captions"]:
                cells = (name, said, row.get("split") or "", row.get("class_id", ""), *(["more"] if extra else []))
                lines.append(divider.join('"' + str(cell).replace('"', '""') + '"' for cell in cells))
                count += 1
        tree.text("captions.csv", "\n".join(lines))
        judged(tree.root, None, lines=count)


@cases(250)
@given(
    rows=ROWS,
    where=st.sampled_from(("", "train", "test", "val")),
    csv=st.booleans(),
    column=st.sampled_from(("text", "caption", "Prompt")),
)
def test_imagefolder(pool, new_tree, rows, where, csv, column):
    with new_tree() as tree:
        lines, count = ["file_name," + column] if csv else [], 0
        for row in rows:
            name = row["name"] + row["suffix"]
            tree.image(pool, f"{where}/{name}".lstrip("/").replace("\\", "_"), row["image"])
            said = (row["captions"] or [""])[0]
            if csv:
                lines.append(",".join('"' + text.replace('"', '""') + '"' for text in (name, said)))
            else:
                line = {"file_name": name, column: said} | {k: row[k] for k in ("class_id", "split") if k in row}
                lines.append(row.get("broken") or json.dumps(line))
            count += 1
        tree.text(f"{where}/metadata.{'csv' if csv else 'jsonl'}".lstrip("/"), "\n".join(lines))
        judged(tree.root, None, lines=count)


KEYS = st.lists(
    st.tuples(
        st.sampled_from(("", "001.Ä/", "sub\\", "a b/")),
        NAMES,
        st.sampled_from(("", ".jpg", ".PNG")),
        IMAGES,
        SUFFIXES,
        CAPTIONS,
    ),
    max_size=6,
)


def on_disk(name):
    return name.replace("\\", "/").strip().removeprefix("./")


@cases(300)
@given(
    train=KEYS,
    test=KEYS,
    classes=st.booleans(),
    folder=st.sampled_from(("images", "CUB_200_2011/images", "images/train2014")),
    texts=st.sampled_from(("text", "pickle", "none")),
)
def test_attngan(pool, new_tree, train, test, classes, folder, texts):
    with new_tree() as tree:
        words = {0: "<end>", 1: "red", 2: "bird"}
        for split, keys in (("train", train), ("test", test)):
            names = [place + name + suffix for place, name, suffix, *_ in keys]
            write_pickle(tree.root / split / "filenames.pickle", names)
            if classes:
                write_pickle(tree.root / split / "class_info.pickle", [k % 2 for k, _ in enumerate(names)])
            for place, name, _, image, suffix, said in keys:
                if is_file_name(name):
                    tree.image(pool, f"{folder}/{on_disk(place + name)}{suffix}", image)
                    if texts == "text":
                        tree.text(f"text/{on_disk(place + name)}.txt", said)
        if texts == "pickle":
            rows = [[[1 + k % 2] for k, _ in enumerate(keys)] for keys in (train, test)]
            write_pickle(tree.root / "captions.pickle", [*rows, words, {}])
        judged(tree.root, len(train) + len(test))


def is_file_name(name):
    return "\t" not in name and "\u2028" not in name and not on_disk(name).startswith("/") and ".." not in name


@cases(250)
@given(train=KEYS, val=KEYS, stray=st.booleans(), texts=st.sampled_from(("text", "text_c10", "captions")))
def test_lists(pool, new_tree, train, val, stray, texts):
    with new_tree() as tree:
        tree.image(pool, "images/sure.png", "good.png")
        tree.text(f"{texts}/sure.txt", "sure")
        count = 0
        for split, keys in (("train", train), ("val", val)):
            lines = ["sure"]
            for place, name, suffix, image, ending, said in keys:
                lines.append((place + name + suffix).replace("\n", ""))
                if is_file_name(name):
                    tree.image(pool, f"images/{on_disk(place + name)}{ending}", image)
                    tree.text(f"{texts}/{on_disk(place + name)}.txt", said)
            tree.text(f"{split}.txt", "\r\n".join(lines))
            count += sum(1 for line in lines if line.strip())
        judged(tree.root, count)


@cases(250)
@given(files=KEYS, parts=st.booleans(), strays=st.lists(NAMES.filter(is_file_name), max_size=2))
def test_texts_beside_images(pool, new_tree, files, parts, strays):
    with new_tree() as tree:
        stems = set()
        for number, (place, name, _, image, suffix, said) in enumerate(files):
            if not is_file_name(name) or name.startswith("."):
                continue
            path = f"{'train/' if parts and number % 2 else ''}{on_disk(place)}{name.replace(chr(92), '_')}"
            tree.image(pool, path + suffix, image)
            if said:
                tree.text(f"{path}.txt", said)
        for name in strays:
            tree.text(f"stray {name.replace(chr(92), '_')}.txt", "a text")
        everything = [f.relative_to(tree.root).as_posix() for f in tree.root.rglob("*") if f.is_file()]
        everything = [name for name in everything if not any(part.startswith(".") for part in name.split("/"))]
        pictures = [name for name in everything if not name.endswith(".txt")]
        stems = {name.rpartition(".")[0].casefold() for name in pictures}
        alone = [name for name in everything if name.endswith(".txt") and name[:-4].casefold() not in stems]
        judged(tree.root, len(pictures) + len(alone))


@cases(150)
@given(
    images=st.lists(st.tuples(mostly((1, 2, 3), ("x", None, 2.5)), NAMES, IMAGES), max_size=6),
    said=st.lists(
        st.tuples(st.sampled_from((1, 2, 3, "x", 9, None)), mostly(("red", "a bird"), (*WORDS, None, 4))), max_size=8
    ),
    part=st.sampled_from(("train2014", "val2017", "odd")),
)
def test_coco_json(pool, new_tree, images, said, part):
    with new_tree() as tree:
        for _, name, image in images:
            if is_file_name(name):
                tree.image(pool, f"{part}/{on_disk(name)}.jpg", image)
        content = {
            "images": [{"id": number, "file_name": f"{name}.jpg"} for number, name, _ in images],
            "annotations": [{"image_id": number, "caption": text} for number, text in said],
        }
        tree.text(f"annotations/captions_{part}.json", json.dumps(content))
        wrong = sum(1 for number, text in said if number is None or not isinstance(text, str))
        listed = {number for number, name, _ in images if isinstance(number, (int, str))}
        orphans = {number for number, text in said if number is not None and isinstance(text, str)} - listed
        outside = {number for number, name, _ in images if is_outside(f"{name}.jpg")}
        report = judged(tree.root, None if outside else len(images) + wrong + len(orphans)) if not outside else None
        assert outside or report is not None


def is_outside(name):
    clean = os.path.normpath(name.strip().replace("\\", "/"))
    return clean.startswith(("/", ".."))


@cases(100)
@given(
    lines=st.lists(st.tuples(st.sampled_from(("1", "2", "3", "4", "x", "")), NAMES, IMAGES, CAPTIONS), max_size=6),
    split=st.dictionaries(st.sampled_from("1234x"), st.sampled_from(("0", "1", "2")), max_size=5),
    boxes=st.booleans(),
)
def test_cub_from_scratch(pool, new_tree, lines, split, boxes):
    with new_tree() as tree:
        root, text = "CUB_200_2011", []
        for number, name, image, said in lines:
            text.append(f"{number} {name}.jpg")
            if is_file_name(name):
                tree.image(pool, f"{root}/images/{on_disk(name)}.jpg", image)
                tree.text(f"text_c10/{on_disk(name)}.txt", said)
        tree.text(f"{root}/images/.keep", "")
        tree.text("text_c10/.keep", "")
        tree.text(f"{root}/images.txt", "\n".join(text))
        tree.text(f"{root}/train_test_split.txt", "\n".join(f"{k} {v}" for k, v in split.items()))
        if boxes:
            tree.text(f"{root}/bounding_boxes.txt", "".join(f"{line.split(' ', 1)[0]} 1 1 2 2\n" for line in text))
        judged(tree.root, len(lines))


@cases(100)
@given(
    shards=st.dictionaries(
        st.sampled_from(("train-0.tar", "train-1.tar", "test-0.tar", "odd.tar")),
        st.lists(
            st.tuples(
                NAMES,
                st.sampled_from((".jpg", ".PNG", None)),
                IMAGES,
                st.sampled_from((".txt", ".json", None)),
                CAPTIONS,
            ),
            max_size=5,
        ),
        min_size=1,
    ),
    cut=st.floats(0.3, 1),
)
def test_shards(pool, new_tree, shards, cut):
    with new_tree() as tree:
        count = 0
        for shard, samples in shards.items():
            with tarfile.open(tree.root / shard, "w") as archive:
                for number, (name, suffix, image, text, said) in enumerate(samples):
                    stem = f"{number}{name.replace('.', '_').replace(chr(92), '_')}"
                    content = b"" if image == "none" else (pool / image).read_bytes()
                    members = [(suffix, content)] if suffix else []
                    if text:
                        members.append(
                            (
                                text,
                                (said if text == ".txt" else json.dumps({"caption": said})).encode("utf-8", "replace"),
                            )
                        )
                    for ending, data in members:
                        member = tarfile.TarInfo(stem + ending)
                        member.size = len(data)
                        archive.addfile(member, io.BytesIO(data))
                    count += bool(members)
        if cut == 1:
            judged(tree.root, count)
            return
        file = tree.root / next(iter(shards))
        file.write_bytes(file.read_bytes()[: int(file.stat().st_size * cut)])
        report, refused = tried(check_data, tree.root, Purpose(image_size=2))
        assert report is not None or str(tree.root) in refused
        assert (
            report is None
            or len(report.facts.train) + len(report.facts.test) + len(report.facts.left_out) == report.facts.rows
        )
