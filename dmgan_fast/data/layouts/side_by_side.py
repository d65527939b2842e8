"""A text beside each image.

    DIR/a.jpg, DIR/a.txt     captions, one a line; .caption does too; also in sub-folders

If every image lies in a folder named after a part (train/, val/, test/), these are the splits. Each image is its own
class.
"""

from __future__ import annotations

from pathlib import Path

from dmgan_fast.data.layouts.base import Captions, holds, text_beside
from dmgan_fast.data.names import IMAGE_SUFFIXES, files_below, without_suffix
from dmgan_fast.data.rows import NO_CAPTION, NO_IMAGE, Contents, Gatherer
from dmgan_fast.data.splits import role_of

NAME = "a text beside each image"
SIGN = "a.txt beside a.jpg"
TEXTS = (".txt", ".caption")
NO_CAPTIONS = ("readme", "license", "licence", "attribution", "requirements", "copying", "notice", "classes")


def is_here(folder: Path) -> bool:
    return text_beside(folder, TEXTS)


def needed(folder: Path) -> dict[str, bool]:
    return {"images": holds(folder), "a text of the same name beside an image": is_here(folder)}


def read(folder: Path) -> Contents:
    gatherer = Gatherer()
    names = list(files_below(folder, IMAGE_SUFFIXES))
    texts = Captions(folder, suffixes=TEXTS)
    stems = {without_suffix(name).casefold() for name in names}
    by_folder = all(role_of(name.partition("/")[0]) and "/" in name for name in names)
    for name in names:
        said, why = texts.of(without_suffix(name))
        split = name.partition("/")[0] if by_folder else ""
        fault = (NO_CAPTION, f"{name} has no text beside it: {why.partition(': ')[2]}") if why else None
        gatherer.add(name, (folder / name, ""), said, split=split, fault=fault, upright=True)
    for text in files_below(folder, TEXTS):
        stem = without_suffix(text, TEXTS)
        if stem.casefold() not in stems and stem.casefold() not in NO_CAPTIONS:
            gatherer.lose(text, NO_IMAGE, f"{text} has no image of its name beside it")
    gatherer.hold_out()
    return gatherer.contents(folder, NAME)
