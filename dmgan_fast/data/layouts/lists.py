"""Images, texts, and lists of names.

    DIR/train.txt, DIR/test.txt     names, one a line, with an extension or without; also val.txt,
                                    train_list.txt, or in DIR/splits/
    DIR/images/a.jpg                in sub-folders too
    DIR/text/a.txt                  captions, one a line; or text_c10/, captions/, or beside the image

A number after a name is its class; without one, each image is its own.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from dmgan_fast.data.layouts.base import TEXT_FOLDERS, Captions, holds, text_beside, text_folder
from dmgan_fast.data.names import Files, is_outside, tidy, without_suffix
from dmgan_fast.data.rows import BROKEN, NO_CAPTION, Contents, Gatherer, whole_number
from dmgan_fast.data.splits import role_of
from dmgan_fast.data.texts import read_lines

NAME = "images and texts with lists of names"
SIGN = "train.txt"
LISTS = ("list", "ids", "names", "filenames", "files", "images", "keys")  # as in train_list.txt
IMAGE_FOLDERS = ("images", "jpg", "image", "imgs")


def is_here(folder: Path) -> bool:
    return bool(_lists(folder)) and all(needed(folder).values())


def needed(folder: Path) -> dict[str, bool]:
    return {
        "train.txt, test.txt": bool(_lists(folder)),
        "images/": _images(folder) is not None,
        "text/": text_folder(folder) is not None or _beside(folder),
    }


def read(folder: Path) -> Contents:
    gatherer = Gatherer()
    root = _images(folder) or folder
    images, texts = Files(root, anywhere=True), Captions(text_folder(folder) or root, anywhere=True)
    for file in _lists(folder):
        for number, line in enumerate(read_lines(file), start=1):
            if line.strip():
                _add(file, number, line.strip(), (root, images, texts), gatherer)
    gatherer.hold_out()
    return gatherer.contents(folder, NAME)


def _lists(folder: Path) -> list[Path]:
    found = [file for place in (folder, folder / "splits") for file in sorted(place.glob("*.txt")) if file.is_file()]
    found = [file for file in found if role_of(_part(file))]
    names = os.listdir(folder) if found else []
    images = {stem for name in names if (stem := without_suffix(name)) != name}
    return [file for file in found if file.stem not in images]  # else it is the caption of that image


def _part(file: Path) -> str:
    """``train`` of ``train.txt``, ``train_list.txt``, ``train-filenames.txt``."""
    head, _, tail = re.sub(r"[-. ]", "_", file.stem).partition("_")
    return head if tail.lower() in LISTS else file.stem


def _images(folder: Path) -> Path | None:
    named = next((folder / name for name in IMAGE_FOLDERS if (folder / name).is_dir()), None)
    return named or (folder if holds(folder) else None)


def _beside(folder: Path) -> bool:
    """Whether some image has a text of its own name beside it."""
    root = _images(folder)
    return root is not None and text_beside(root)


def _add(file: Path, number: int, line: str, places: tuple[Path, Files, Captions], gatherer: Gatherer) -> None:
    root, images, texts = places
    if is_outside(line):
        gatherer.lose(f"{file.name}:{number}", BROKEN, f"{file}:{number}: {line!r} is outside the folder")
        return
    name, class_id = _within(tidy(line), root.name), None
    image = images.find(name)
    head, _, tail = name.rpartition(" ")
    if image[0] is None and head and whole_number(tail) is not None and images.find(head.strip())[0]:
        name, class_id = head.strip(), whole_number(tail)
        image = images.find(name)
    key = without_suffix(without_suffix(name), (".txt",))
    said, why = texts.of(key)
    fault = (NO_CAPTION, why) if why and image[0] else None
    gatherer.add(key, image, said, split=_part(file), class_id=class_id, fault=fault, upright=True)


def _within(name: str, root: str) -> str:
    """``a.jpg`` for ``images/a.jpg``: lists name the folder or do not."""
    first, _, rest = name.partition("/")
    return rest if rest and first in (root, *IMAGE_FOLDERS, *TEXT_FOLDERS) else name
