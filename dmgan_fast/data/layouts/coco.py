"""COCO as published, and Karpathy's JSON of COCO and Flickr.

    DIR/annotations/captions_train2014.json     images with id and file_name, annotations with image_id and caption
    DIR/annotations/captions_val2014.json
    DIR/train2014/COCO_train2014_000000000009.jpg, DIR/val2014/...     or below DIR/images/, or in it
or
    DIR/dataset_coco.json, dataset_flickr30k.json, ...     images with filename, sentences and split

The files name the parts; without a test part, val is held out, as in the paper. Each image is its own class, as in the
paper: instances_*.json hold several for an image, and are not read. Images are taken as stored, as the authors do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dmgan_fast.data.layouts.base import holds
from dmgan_fast.data.names import Files, is_outside
from dmgan_fast.data.rows import BROKEN, NO_IMAGE, Contents, Gatherer
from dmgan_fast.data.tables import read_json, short
from dmgan_fast.errors import DataError

NAME = "COCO as published, or Karpathy's JSON"
SIGN = "annotations/captions_train2014.json"
EITHER = "annotations/captions_*.json or dataset_*.json"


def is_here(folder: Path) -> bool:
    return bool(_captions(folder) or _karpathy(folder))


def needed(folder: Path) -> dict[str, bool]:
    found = {EITHER: is_here(folder), "images": holds(folder)}
    instances = {file.name: True for file in (folder / "annotations").glob("instances_*.json")}
    return found | instances


def read(folder: Path) -> Contents:
    gatherer = Gatherer()
    for file in _captions(folder):
        _read_captions(file, folder, gatherer)
    for file in [] if _captions(folder) else _karpathy(folder):
        _read_karpathy(file, folder, gatherer)
    gatherer.hold_out()
    return gatherer.contents(folder, NAME)


def _captions(folder: Path) -> list[Path]:
    found = (*folder.glob("annotations/captions_*.json"), *folder.glob("captions_*.json"))
    return sorted(file for file in found if file.is_file())


def _karpathy(folder: Path) -> list[Path]:
    found = (file for file in folder.glob("dataset*.json") if file.is_file())
    return sorted(file for file in found if not re.match(r"dataset_(info|dict)", file.name))  # Hugging Face's


def _images(folder: Path, part: str) -> list[Files]:
    """Where images of a part are looked for, the likeliest first."""
    roots = (folder / part, folder / "images" / part, folder / "images", folder)
    return [Files(root, by_stem=False, anywhere=root.name != part) for root in roots if root.is_dir()]


def _find(places: list[Files], name: str) -> tuple[Path | None, str]:
    why = "not found: no folder of images"
    for place in places:
        file, why = place.find(name)
        if file is not None:
            break
    else:
        return None, why
    return file, ""


def _read_captions(file: Path, folder: Path, gatherer: Gatherer) -> None:
    part = re.sub(r"^captions_", "", file.stem)
    content = read_json(file)
    listed, notes = _list(file, content, "images"), _list(file, content, "annotations")
    said = _by_image(file, notes, gatherer)
    places, ids = _images(folder, part), set()
    for row in listed:
        name, number = (row.get("file_name"), row.get("id")) if isinstance(row, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(number, (int, str)) or is_outside(name) or number in ids:
            gatherer.lose(
                f"{file.name}: {short(row)}",
                BROKEN,
                f"{file}: an image needs an id of its own and a file_name, got {short(row)}",
            )
            continue
        ids.add(number)
        gatherer.add(name, _find(places, name), said.get(number, ()), split=part)
    for number in said:
        if number not in ids:
            why = f"{file}: {len(said[number])} captions of image {number}, which is not listed"
            gatherer.lose(f"{file.name}: captions of image {number}", NO_IMAGE, why)


def _list(file: Path, content: Any, name: str) -> list[Any]:
    value = content.get(name) if isinstance(content, dict) else None
    if not isinstance(value, list):
        raise DataError(f"{file}: expected an object with a list named {name}")
    return value


def _by_image(file: Path, annotations: list[Any], gatherer: Gatherer) -> dict[Any, list[str]]:
    """Image id → captions."""
    said: dict[Any, list[str]] = {}
    for row in annotations:
        number, caption = (row.get("image_id"), row.get("caption")) if isinstance(row, dict) else (None, None)
        if not isinstance(number, (int, str)) or not isinstance(caption, str):
            why = f"{file}: an annotation needs image_id and caption, got {short(row)}"
            gatherer.lose(f"{file.name}: {short(row)}", BROKEN, why)
            continue
        said.setdefault(number, []).append(caption)
    return said


def _read_karpathy(file: Path, folder: Path, gatherer: Gatherer) -> None:
    places: dict[str, list[Files]] = {}
    for row in _list(file, read_json(file), "images"):
        name, said = (row.get("filename"), _sentences(row)) if isinstance(row, dict) else (None, None)
        if not isinstance(name, str) or is_outside(name) or said is None:
            why = f"{file}: an image needs filename and sentences, got {short(row)}"
            gatherer.lose(f"{file.name}: {short(row)}", BROKEN, why)
            continue
        part = row.get("filepath") if isinstance(row.get("filepath"), str) else ""
        if part not in places:
            places[part] = _images(folder, part) if not is_outside(part) else []
        gatherer.add(name, _find(places[part], name), said, split=row.get("split") or "")


def _sentences(row: dict[str, Any]) -> list[str] | None:
    sentences = row.get("sentences")
    if not isinstance(sentences, Iterable) or isinstance(sentences, (str, dict)):
        return None
    raw = [sentence.get("raw") if isinstance(sentence, dict) else sentence for sentence in sentences]
    said = [text for text in raw if isinstance(text, str)]
    return said if len(said) == len(raw) else None
