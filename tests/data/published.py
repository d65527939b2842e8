"""Sets written file by file, as they are published and as people make them."""

import io
import json
import tarfile

import pyarrow
import pyarrow.parquet
from PIL import Image

from dmgan_fast.data import CaptionedImages, open_dataset

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


def keys(data: CaptionedImages):
    return [record.key for record in data.records]


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


def flowers(root, count=8):
    for number in range(1, count + 1):
        put(root / f"jpg/image_{number:05d}.jpg", image_bytes(number, "JPEG"))
        put(root / f"text_c10/class_{1 + number % 4:05d}/image_{number:05d}.txt", said(number))
    return root


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


def shard(file, samples):
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as archive:
        for name, content in samples:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
