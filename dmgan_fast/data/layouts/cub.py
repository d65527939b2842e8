"""CUB as published, with Reed's captions, without anybody's pickles.

    DIR/CUB_200_2011/images/001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg
    DIR/CUB_200_2011/images.txt               number, name of the image
    DIR/CUB_200_2011/image_class_labels.txt   number, class; else the class is the image's folder
    DIR/CUB_200_2011/train_test_split.txt     number, 1 for training and 0 for test
    DIR/CUB_200_2011/bounding_boxes.txt       number, x, y, width, height; without it images are taken whole
    DIR/text_c10/001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.txt     captions, one a line (or text/)
    DIR/trainvalclasses.txt, DIR/testclasses.txt     Reed's classes for training and for test, as in the paper

Reed's lists go before train_test_split.txt. DIR may be CUB_200_2011 itself. Images are taken as stored, since the boxes
are measured so.
"""

from __future__ import annotations

import posixpath
from pathlib import Path

from dmgan_fast.data.layouts.base import Box, Captions, box_of, class_splits, table, text_folder
from dmgan_fast.data.names import Files, tidy, without_suffix
from dmgan_fast.data.rows import BROKEN, NO_CAPTION, Contents, Gatherer
from dmgan_fast.data.texts import read_lines
from dmgan_fast.errors import DataError

NAME = "CUB as published, with Reed's captions"
SIGN = "CUB_200_2011/images.txt"
FOLDER = "CUB_200_2011"


def is_here(folder: Path) -> bool:
    return (root_of(folder) / "images.txt").is_file() and _texts(folder) is not None


def needed(folder: Path) -> dict[str, bool]:
    return {
        f"{FOLDER}/images.txt": (root_of(folder) / "images.txt").is_file(),
        f"{FOLDER}/images/": root_of(folder) != folder and (root_of(folder) / "images").is_dir(),
        "text_c10/ (Reed's captions) or text/": _texts(folder) is not None,
    }


def read(folder: Path) -> Contents:
    root, gatherer = root_of(folder), Gatherer()
    if not (root / "images").is_dir():
        raise DataError(f"{folder}: no images; looked for {root / 'images'}")
    texts = Captions(_texts(folder) or folder / "text_c10", anywhere=True)
    names = _names(root / "images.txt", gatherer)
    images, measured = Files(root / "images", anywhere=True), _optional_boxes(root, gatherer)
    classes, splits = _classes(root), _splits(folder, root, names, gatherer)
    for number, name in names.items():
        key = without_suffix(name)
        said, why = texts.of(key)
        gatherer.add(
            key,
            images.find(name),
            said,
            split=splits.get(number, ""),
            class_id=classes.get(number, posixpath.dirname(key) or None),
            fault=(NO_CAPTION, why) if why else None,
            box=measured.get(key),
        )
    return gatherer.contents(folder, NAME)


def _names(file: Path, gatherer: Gatherer) -> dict[str, str]:
    """Image number → its name."""
    names: dict[str, str] = {}
    for line, text in enumerate(read_lines(file), start=1):
        number, _, name = text.strip().partition(" ")
        if number and (not name.strip() or number in names):
            why = f"{file}:{line}: a number of its own and a name are needed, got {text.strip()!r}"
            gatherer.lose(f"{file.name}:{line}", BROKEN, why)
        elif number:
            names[number] = tidy(name)
    return names


def root_of(folder: Path) -> Path:
    """Where CUB's own files lie: ``CUB_200_2011``, also if it was unpacked into a folder of its name, or ``folder``."""
    while (folder / FOLDER).is_dir():
        folder = folder / FOLDER
    return folder


def _texts(folder: Path) -> Path | None:
    return text_folder(folder, root_of(folder), folder.parent if root_of(folder) == folder else folder)


def _classes(root: Path) -> dict[str, str]:
    file = root / "image_class_labels.txt"
    return dict(table(file, 2)) if file.is_file() else {}


def _splits(folder: Path, root: Path, names: dict[str, str], gatherer: Gatherer) -> dict[str, str]:
    """Image number → name of its split."""
    by_class = class_splits(folder, root)
    if by_class:
        gatherer.notes.append("split by class, as trainvalclasses.txt and testclasses.txt say")
        return {number: by_class.get(posixpath.dirname(name), "in neither list") for number, name in names.items()}
    file = root / "train_test_split.txt"
    if not file.is_file():
        gatherer.notes.append(f"{file} is not there, so about one image in ten is held out by its name")
        return {}
    return {number: {"1": "train", "0": "test"}.get(part.strip(), part) for number, part in table(file, 2)}


def _optional_boxes(root: Path, gatherer: Gatherer) -> dict[str, Box]:
    if (root / "bounding_boxes.txt").is_file():
        return boxes(root)
    gatherer.notes.append(f"{root / 'bounding_boxes.txt'} is not there, so images are taken whole, unlike in the paper")
    return {}


def boxes(root: Path) -> dict[str, Box]:
    """Key → x, y, width, height.

    Raises:
        DataError: if the files can't be read or do not belong together.
    """
    try:
        names = dict(line.split(maxsplit=1) for line in read_lines(root / "images.txt") if line.strip())
        rows = [line.split() for line in read_lines(root / "bounding_boxes.txt") if line.strip()]
        return {without_suffix(tidy(names[number])): box_of(values) for number, *values in rows}
    except KeyError as error:
        raise DataError(f"bounding boxes of {root} can't be read: images.txt has no number {error}") from None
    except (DataError, ValueError) as error:
        raise DataError(f"bounding boxes of {root} can't be read: {error}") from None
