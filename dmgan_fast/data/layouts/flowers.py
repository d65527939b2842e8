"""Oxford flowers with Reed's captions.

    DIR/jpg/image_00001.jpg
    DIR/text_c10/class_00077/image_00001.txt     captions, one a line
    DIR/imagelabels.mat                          a class for each image; else the folder in text_c10/ is the class
    DIR/setid.mat                                trnid, valid, tstid: numbers of the images of each part
    DIR/trainvalclasses.txt, DIR/testclasses.txt     Reed's classes for training and for test; go before setid.mat

The .mat files are of MATLAB's versions 5 to 7.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

import numpy as np

from dmgan_fast.data.layouts.base import Captions, class_splits
from dmgan_fast.data.matlab import read_arrays
from dmgan_fast.data.names import IMAGE_SUFFIXES, TEXT_SUFFIXES, files_below, without_suffix
from dmgan_fast.data.rows import BROKEN, NO_CAPTION, Contents, Gatherer
from dmgan_fast.errors import DataError

NAME = "Oxford flowers with Reed's captions"
SIGN = "jpg/ and text_c10/"
PARTS = {"trnid": "train", "valid": "val", "tstid": "test"}


def is_here(folder: Path) -> bool:
    return all(needed(folder).values())


def needed(folder: Path) -> dict[str, bool]:
    return {"jpg/": (folder / "jpg").is_dir(), "text_c10/": (folder / "text_c10").is_dir()}


def read(folder: Path) -> Contents:
    gatherer = Gatherer()
    texts, images = _texts(folder, gatherer), list(files_below(folder / "jpg", IMAGE_SUFFIXES))
    labels, parts, by_class = _labels(folder), _parts(folder, gatherer), class_splits(folder)
    captions = Captions(folder / "text_c10")
    listed = set(images)
    for name in images + sorted(set(texts) - {_base(name) for name in images}):
        base = _base(name)
        place, number = texts.get(base, ""), _number(base)
        own = posixpath.dirname(place)
        said, why = captions.of(place) if place else ((), f"{name}: no text in {folder / 'text_c10'}")
        gatherer.add(
            without_suffix(name),
            (folder / "jpg" / name, "") if name in listed else (None, f"not found in {folder / 'jpg'}"),
            said,
            split=by_class.get(own, "in neither list")
            if by_class
            else parts.get(number, "in no part")
            if parts
            else "",
            class_id=labels.get(number, own or None),
            fault=(NO_CAPTION, why) if why else None,
            upright=True,
        )
    return gatherer.contents(folder, NAME)


def _base(name: str) -> str:
    return posixpath.basename(without_suffix(name))


def _texts(folder: Path, gatherer: Gatherer) -> dict[str, str]:
    """Name of the image → its text, without extension."""
    texts: dict[str, str] = {}
    for name in files_below(folder / "text_c10", TEXT_SUFFIXES):
        place = without_suffix(name, TEXT_SUFFIXES)
        base = posixpath.basename(place)
        if base in texts:
            gatherer.lose(f"text_c10/{name}", BROKEN, f"text_c10/{name}: {base} has captions in {texts[base]}.txt too")
        else:
            texts[base] = place
    return texts


def _number(key: str) -> int:
    found = re.search(r"(\d+)$", key)
    return int(found[1]) if found else -1


def _labels(folder: Path) -> dict[int, int]:
    """Image number → class."""
    file = folder / "imagelabels.mat"
    if not file.is_file():
        return {}
    return dict(enumerate(_numbers(file, "labels"), start=1))


def _parts(folder: Path, gatherer: Gatherer) -> dict[int, str]:
    """Image number → name of its split."""
    file = folder / "setid.mat"
    if class_splits(folder):
        gatherer.notes.append("split by class, as trainvalclasses.txt and testclasses.txt say")
        return {}
    if not file.is_file():
        gatherer.notes.append(f"{file} is not there, so about one image in ten is held out by its name")
        return {}
    return {number: part for name, part in PARTS.items() for number in _numbers(file, name)}


def _numbers(file: Path, name: str) -> list[int]:
    content = read_arrays(file)
    if name not in content:
        raise DataError(f"{file}: the variable {name} is missing; has {', '.join(content) or 'none'}")
    values = content[name]
    if not (np.isfinite(values) & (values == np.trunc(values))).all():
        raise DataError(f"{file}: {name} must hold whole numbers")
    return [int(value) for value in values.tolist()]
