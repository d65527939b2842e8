"""Every reader of files from outside: weights, pickles, data sets, images, settings, captions."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import sys
import tarfile
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image

from dmgan_fast.cli.captions import gather
from dmgan_fast.compat import load_checkpoint as load_authors
from dmgan_fast.compat import read_vocabulary
from dmgan_fast.data.check import check_data
from dmgan_fast.data.dataset import read_image
from dmgan_fast.data.opening import read_set
from dmgan_fast.data.pickles import read_pickle
from dmgan_fast.data.record import Record
from dmgan_fast.data.tables import csv_table, json_lines, parquet_table, read_json
from dmgan_fast.data.vocabulary import Vocabulary
from dmgan_fast.errors import DMGANError
from dmgan_fast.evaluation.given_statistics import GivenStatistics
from dmgan_fast.modules import TextEncoder, TextEncoderConfig
from dmgan_fast.runs.checkpoints import load_checkpoint, save_checkpoint
from dmgan_fast.runs.config import TrainConfig
from dmgan_fast.runs.presets import build_config
from dmgan_fast.sampling.bundle import open_bundle, save_bundle
from tools.fuzz.files import INSTEAD, PIPES, Seeds, edited, file_cases, folder, put
from tools.fuzz.verdict import Target, Wrong

WORDS = ("<end>", "a", "red", "blue", "bird")


class Opens:
    """An object whose pickle runs a command where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch pwned",)


def _bytes(write: Callable[[io.BytesIO], object]) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def reader(name: str, seeds: Seeds, read: Callable[[Path], object], *, suffix: str = "", pipes: bool = True) -> Target:
    """A reader of one file. ``pipes``: it should refuse them."""
    instead = [what for what in INSTEAD if pipes or what not in PIPES]
    valid = cache(seeds)

    def check(case: Any) -> None:
        which, changes, instead = case
        with folder() as place:
            file = place / f"given{suffix or Path(which).suffix}"
            put(file, edited(valid()[which], changes), instead)
            try:
                read(file)
            except DMGANError as error:
                if not changes and not instead and not which.startswith("bad"):
                    raise Wrong(f"a valid file was refused: {error}") from None
                raise
            finally:
                _nothing_ran(place)

    cases = st.deferred(lambda: file_cases(sorted(valid()), instead))
    return Target(name, "reader", cases, check, lambda case: ("given",), prepare=valid)


def _nothing_ran(place: Path) -> None:
    if (place / "pwned").exists() or Path("pwned").exists():
        raise Wrong("code in the file ran")


# ------------------------------------------------------------------------------------------------------------- weights


def _tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {"encoder.weight": torch.randn(5, 3), "rnn.weight_ih_l0": torch.randn(8, 3), "count": torch.arange(4)}


def _torch_files() -> dict[str, bytes]:
    from safetensors.torch import save

    state = _tensors()
    module = torch.nn.Sequential(torch.nn.Linear(2, 2))
    whole = {"netG": OrderedDict(state), "epoch": 3, "lr": np.float64(0.1), "args": {"a": [1, 2, ("x", None)]}}
    files = {
        "zip.pth": _bytes(lambda f: torch.save(state, f)),
        "nested.pth": _bytes(lambda f: torch.save(whole, f)),
        "old.pth": _bytes(lambda f: torch.save(state, f, _use_new_zipfile_serialization=False)),
        "module.pth": _bytes(lambda f: torch.save(module, f)),
        "state.safetensors": save(state),
        "bad-code.pth": _bytes(lambda f: torch.save({"a": Opens()}, f)),
        "bad-pickle.pth": pickle.dumps(Opens()),
    }
    return files | {"bad-bomb.pth": _deflated(files["zip.pth"])}


def _deflated(content: bytes) -> bytes:
    """The same archive with one record that unpacks to 256 MiB of zeros."""
    source, to = zipfile.ZipFile(io.BytesIO(content)), io.BytesIO()
    with zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in source.namelist():
            if name.endswith("/data/0"):
                with archive.open(name, "w") as stream:
                    for _ in range(16):
                        stream.write(bytes(1 << 24))
            else:
                archive.writestr(name, source.read(name))
    return to.getvalue()


def _load_any(file: Path) -> None:
    try:
        load_authors(file)
    except DMGANError as error:
        if "state dict (names with tensors) of a model" not in str(error):  # no model of the family is in some
            raise


def _own_checkpoint() -> dict[str, bytes]:
    with folder() as place:
        state = {
            "kind": "gan",
            "config": {"loop": {"batch_size": 2}},
            "step": 3,
            "task": {"a": _tensors()},
            "seconds": 1.0,
        }
        save_checkpoint(place / "step-00000003.pt", state, 1)
        return {"run.pt": (place / "step-00000003.pt").read_bytes()}


@cache
def _bundle_files() -> dict[str, bytes]:
    torch.manual_seed(0)
    encoder = TextEncoder(TextEncoderConfig(vocabulary_size=len(WORDS), word_channels=4, embedding_channels=3))
    with folder() as place:
        save_bundle(place / "b", vocabulary=Vocabulary(WORDS), card="A model card.", text_encoder=encoder)
        return {
            str(f.relative_to(place / "b")): f.read_bytes() for f in sorted((place / "b").rglob("*")) if f.is_file()
        }


def _folder_target(
    name: str, seeds: Seeds, read: Callable[[Path], object], *, mutable: Callable[[str], bool] = lambda name: True
) -> Target:
    """A reader of a folder, of which one file is edited; whatever it says must name the folder."""
    valid = cache(seeds)

    def check(case: Any) -> None:
        which, changes, instead = case
        with folder() as place:
            root = place / "given"
            for file, content in valid().items():
                if file != which:
                    put(root / file, content, "")
            put(root / which, edited(valid()[which], changes), instead)
            try:
                read(root)
            except DMGANError as error:
                if not changes and not instead:
                    raise Wrong(f"a valid folder was refused: {error}") from None
                raise
            finally:
                _nothing_ran(place)

    cases = st.deferred(lambda: file_cases([file for file in sorted(valid()) if mutable(file)]))
    return Target(name, "reader", cases, check, lambda case: ("given", case[0].rpartition("/")[2]), prepare=valid)


def _read_bundle(root: Path) -> None:
    open_bundle(root, "text_encoder").text_encoder()


# ---------------------------------------------------------------------------------------------------- pickles and texts


def _bomb() -> bytes:
    """A pickle of a list that holds itself twice, thirty levels deep."""
    inner: list[Any] = ["x"]
    for _ in range(30):
        inner = [inner, inner]
    return pickle.dumps(inner)


def _pickles() -> dict[str, bytes]:
    words = dict(enumerate(WORDS))
    content = [[[1, 2], [3]], [[4]], words, {word: index for index, word in words.items()}]
    arrays = {"names": ["a/b", "c"], "ids": np.arange(3), "x": np.float32(2), "set": {1, 2}, "box": (1.5, None)}
    return {
        "captions.pickle": pickle.dumps(content, protocol=2),
        "captions4.pickle": pickle.dumps(content),
        "old.pickle": pickle.dumps(content, protocol=0),
        "arrays.pickle": pickle.dumps(arrays, protocol=2),
        "bad-code.pickle": pickle.dumps(Opens(), protocol=0),
        "bomb.pickle": _bomb(),
    }


def _vocabularies() -> dict[str, bytes]:
    some = {name: content for name, content in _pickles().items() if name.startswith(("captions", "old"))}
    return some | {"words.json": json.dumps(WORDS).encode()}


def _texts() -> Iterator[Target]:
    words = {"words.json": json.dumps(WORDS).encode()}
    yield reader("vocabulary.json", lambda: words, Vocabulary.load)
    rows = [
        {"image": "a.png", "captions": ["a red bird", "ünï"], "class_id": 3, "split": "train"},
        {"a": [1.5, None, True]},
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    yield reader("json", lambda: {"a.json": json.dumps(rows).encode()}, read_json)
    yield reader(
        "jsonl", lambda: {"a.jsonl": lines, "list.jsonl": json.dumps(rows).encode()}, lambda f: list(json_lines(f))
    )
    table = b'image,caption,class_id\na.png,"a red, bird",3\nb.png,blue,\n'
    yield reader("csv", lambda: {"a.csv": table, "b.csv": table.replace(b",", b";")}, csv_table)
    settings = b"loop:\n  steps: 10\n  batch_size: 4\ngenerator: {image_sizes: [64, 128]}\nencoders: a\n"
    bomb = b"a: &a [x, x]\n" + b"".join(
        b"%c: &%c [*%c, *%c, *%c]\n" % (98 + k, 98 + k, 97 + k, 97 + k, 97 + k) for k in range(20)
    )
    files = {
        "a.yaml": settings,
        "bad-bomb.yaml": bomb + b"encoders: *u\n",
        "bad-list.yaml": bomb.replace(b"a: &a", b"- &a", 1),
    }
    yield reader("config.yaml", lambda: files, lambda f: build_config(TrainConfig, file=f), pipes=False)
    captions = {
        "a.txt": b"a red bird\n\nblue\n",
        "a.jsonl": b'{"caption": "a red bird"}\n{"captions": ["a", "b"]}\n"c"\n',
        "a.json": b'["a red bird", "blue"]',
    }
    yield reader("captions", lambda: captions, lambda f: gather([], f), pipes=False)


def _parquet() -> dict[str, bytes]:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"text": ["a red bird", "blue"], "label": [1, 2]})
    return {"a.parquet": _bytes(lambda f: pyarrow.parquet.write_table(table, f))}


def _matlab() -> dict[str, bytes]:
    from scipy.io import savemat

    content = {"labels": np.arange(1, 5)}
    return {
        "labels.mat": _bytes(lambda f: savemat(f, content)),
        "packed.mat": _bytes(lambda f: savemat(f, content, do_compression=True)),
    }


def _read_matlab(file: Path) -> None:
    from dmgan_fast.data.layouts.flowers import _numbers

    _numbers(file, "labels")


def _statistics() -> dict[str, bytes]:
    def bomb(to: io.BytesIO) -> None:
        shape = {"descr": "<f8", "fortran_order": False, "shape": (1 << 27,)}
        header = _bytes(lambda f: np.lib.format.write_array_header_1_0(f, shape))
        with zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr("sigma.npy", b"")
            with archive.open("mu.npy", "w") as stream:
                stream.write(header)
                for _ in range(64):
                    stream.write(bytes(1 << 24))

    good = {"mu": np.zeros(3), "sigma": np.eye(3)}
    return {
        "a.npz": _bytes(lambda f: np.savez(f, **good)),
        "packed.npz": _bytes(lambda f: np.savez_compressed(f, **good)),
        "bad-objects.npz": _bytes(lambda f: np.savez(f, mu=np.array([Opens()], dtype=object), sigma=np.eye(3))),
        "bad-bomb.npz": _bytes(bomb),
    }


# -------------------------------------------------------------------------------------------------------------- images


def png(width: int = 9, height: int = 7, mode: str = "RGB") -> bytes:
    image = Image.effect_noise((width, height), 60).convert(mode)
    return _bytes(lambda f: image.save(f, "PNG"))


def _png_bomb(width: int, height: int) -> bytes:
    """A valid PNG of one colour, small as a file."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer, rows = zlib.compressobj(9), bytearray()
    for _ in range(height):
        rows += packer.compress(bytes(1 + (width + 7) // 8))
    rows += packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", bytes(rows)) + chunk(b"IEND", b"")


def _saved(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    image = Image.effect_noise((9, 7), 60).convert(mode)
    return _bytes(lambda f: image.save(f, kind, **options))


def _images() -> Iterator[Target]:
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = {
        "png": {"a.png": png(), "alpha.png": png(mode="RGBA"), "gray.png": png(mode="L"), "wide.png": png(mode="I;16"),
                "palette.png": png(mode="P"), "bits.png": png(mode="1"), "bad-bomb.png": _png_bomb(20_000, 20_000),
                "bad-thin.png": _png_bomb(1_000_000, 3)},
        "jpeg": {"a.jpg": _saved("JPEG", exif=exif), "gray.jpg": _saved("JPEG", "L"), "cmyk.jpg": _saved("JPEG",
        "CMYK"),
                 "progressive.jpg": _saved("JPEG", progressive=True)},
        "other images": {"a.gif": _saved("GIF", "P"), "a.webp": _saved("WEBP"), "a.bmp": _saved("BMP"),
        "a.tif": _saved("TIFF"),
                         "float.tif": _saved("TIFF", "F"), "packed.tif": _saved("TIFF", compression="tiff_lzw"),
                         "a.ppm": _saved("PPM")},
    }  # fmt: skip
    for name, seeds in kinds.items():
        seeds = {f"bad-{n}" if n == "float.tif" else n: content for n, content in seeds.items()}

        def read(file: Path) -> None:
            image = read_image(Record("given", file, ("a",), 0, upright=True))
            if image.mode != "RGB" or not all(image.size):
                raise Wrong(f"an image of mode {image.mode} and size {image.size}")

        yield reader(name, lambda seeds=seeds: seeds, read)


# ----------------------------------------------------------------------------------------------------------- data sets


def _tar(members: Mapping[str, bytes | tuple[bytes, str]]) -> bytes:
    """``name: content``, or ``name: (type, target)`` of a link or device."""

    def write(to: io.BytesIO) -> None:
        with tarfile.open(fileobj=to, mode="w") as archive:
            for name, content in members.items():
                entry = tarfile.TarInfo(name)
                if isinstance(content, tuple):
                    entry.type, entry.linkname = content
                    archive.addfile(entry)
                else:
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))

    return _bytes(write)


def _shards() -> dict[str, bytes]:
    image = png()
    plain = {"a.png": image, "a.txt": b"a red bird", "b.png": image, "b.json": b'{"caption": "blue"}', "b.cls": b"3"}
    climbing = {
        "../up.png": image, "../up.txt": b"up", "/root.png": image, "/root.txt": b"root", "x/../../y.png": image,
        "y.txt": b"y",
        "link.png": (tarfile.SYMTYPE, "/etc/passwd"), "link.txt": b"link", "hard.png": (tarfile.LNKTYPE, "../up.png"),
        "device.png": (tarfile.CHRTYPE, ""), "fifo.txt": (tarfile.FIFOTYPE, ""),
    }  # fmt: skip
    return {"plain.tar": _tar(plain), "climbing.tar": _tar({**plain, **climbing})}


def _read_set(source: Path) -> None:
    """Read rows and images; every row lies in the set, and every image can be read or is named."""
    contents = read_set(source)
    root = source if source.is_dir() else source.parent
    for row in contents.rows:
        file = Path(os.path.normpath(row.record.file))
        if row.fault is None and not file.is_relative_to(root):
            raise Wrong(f"the row {row.record.key!r} takes {file}, outside the set")
        if row.fault is None:
            try:
                read_image(row.record)
            except DMGANError as error:
                if not any(part in str(error) for part in (source.name, row.record.key)):
                    raise


def _check_set(root: Path) -> None:
    report = check_data(root, decode=True)
    facts = report.to_dict()
    if facts["rows"] != facts["train"] + facts["test"] + len(facts["left_out"]):
        used = facts["train"] + facts["test"]
        raise Wrong(f"{facts['rows']} rows, of which {used} are used and {len(facts['left_out'])} named")
    report.text()
    _read_set(root)


def _sets() -> Iterator[Target]:
    pictures = {name: png() for name in ("a.png", "b.png", "c.png")}
    rows = [{"image": name, "captions": ["a red bird", "blue"], "class_id": k, "split": part}
            for k, (name, part) in enumerate(zip(pictures, ("train", "train", "test"), strict=True))]  # fmt: skip
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    own = pictures | {"captions.jsonl": lines, "vocabulary.json": json.dumps(WORDS).encode()}
    yield _folder_target("set: captions.jsonl", lambda: own, _check_set)
    table = b"image,caption,class_id,split\n" + b"".join(
        f"{r['image']},a red bird,1,{r['split']}\n".encode() for r in rows
    )
    yield _folder_target("set: captions.csv", lambda: pictures | {"captions.csv": table}, _check_set)
    meta = b"".join(b'{"file_name": "%s", "text": "a red bird"}\n' % name.encode() for name in pictures)
    yield _folder_target("set: imagefolder", lambda: pictures | {"metadata.jsonl": meta}, _check_set)
    captions = {"images": [{"id": k, "file_name": n} for k, n in enumerate(pictures)],
                "annotations": [{"image_id": k, "caption": "a red bird"} for k in range(3)]}  # fmt: skip
    coco = {f"train2014/{name}": content for name, content in pictures.items()}
    yield _folder_target(
        "set: COCO", lambda: coco | {"annotations/captions_train2014.json": json.dumps(captions).encode()}, _check_set
    )
    cub = {f"images/001.A/{name.replace('png', 'jpg')}": _saved("JPEG") for name in pictures}
    names = [name.removeprefix("images/") for name in cub]
    cub |= {f"text/001.A/{Path(name).stem}.txt": b"a red bird\nblue\n" for name in names}
    cub |= {
        "images.txt": "".join(f"{k} {name}\n" for k, name in enumerate(names, 1)).encode(),
        "bounding_boxes.txt": b"".join(b"%d 1.0 1.0 5.0 5.0\n" % k for k in range(1, 4)),
        "image_class_labels.txt": b"1 1\n2 1\n3 1\n",
        "train_test_split.txt": b"1 1\n2 1\n3 0\n",
    }
    yield _folder_target("set: CUB", lambda: cub, _check_set)
    attngan = {
        f"CUB_200_2011/images/{name}": content for name, content in zip(names, [_saved("JPEG")] * 3, strict=True)
    }
    attngan |= {f"text/{name.removesuffix('.jpg')}.txt": b"a red bird\nblue\n" for name in names}
    keys = [name.removesuffix(".jpg") for name in names]
    attngan |= {
        "train/filenames.pickle": pickle.dumps(keys[:2], protocol=2),
        "test/filenames.pickle": pickle.dumps(keys[2:], protocol=2),
        "train/class_info.pickle": pickle.dumps([1, 1], protocol=2),
        "test/class_info.pickle": pickle.dumps([1], protocol=2),
        "CUB_200_2011/images.txt": cub["images.txt"],
        "CUB_200_2011/bounding_boxes.txt": cub["bounding_boxes.txt"],
        "captions.pickle": _pickles()["captions.pickle"],
    }
    yield _folder_target("set: AttnGAN", lambda: attngan, _check_set)
    yield reader("set: tar", _shards, _read_set, suffix=".tar")


def targets() -> Iterator[Target]:
    """Each reader."""
    yield reader("torch weights", _torch_files, _load_any)
    yield reader("checkpoint", _own_checkpoint, lambda file: load_checkpoint(file, "gan"))
    yield _folder_target(
        "folder of weights", _bundle_files, _read_bundle, mutable=lambda name: not name.endswith(".md")
    )
    yield reader("pickle", _pickles, read_pickle)
    yield reader("vocabulary", _vocabularies, read_vocabulary)
    yield reader("statistics.npz", _statistics, GivenStatistics.read)
    yield from _texts()
    yield from _images()
    if "pyarrow" in sys.modules or _installed("pyarrow"):
        yield reader("parquet", _parquet, parquet_table)
    if _installed("scipy"):  # which writes the files
        yield reader("mat", _matlab, _read_matlab)
    yield from _sets()


def _installed(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None
