"""CUB and COCO in the layout of AttnGAN's users.

    DIR/captions.pickle            [train captions, test captions, ixtoword, wordtoix], or made from text/
    DIR/train/filenames.pickle     keys, as 001.Black_footed_Albatross/Black_Footed_Albatross_0046_18
    DIR/test/filenames.pickle
    DIR/train/class_info.pickle    a class for each key (CUB; COCO has none, each image is its own class)
    DIR/text/KEY.txt               captions, one a line
    DIR/CUB_200_2011/              images/KEY.jpg, images.txt, bounding_boxes.txt
    DIR/images/KEY.jpg             (COCO; also in sub-folders, or in DIR/train2014 and DIR/val2014)

Keys may end in an extension, images may have any; either slash does. Images are taken as stored, whatever their EXIF
data say: the boxes are measured so, and the authors read them so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dmgan_fast.data.layouts import cub
from dmgan_fast.data.layouts.base import Box, Captions, text_folder
from dmgan_fast.data.names import Files, tidy, without_suffix
from dmgan_fast.data.pickles import read_pickle
from dmgan_fast.data.rows import BROKEN, NO_CAPTION, Contents, Gatherer
from dmgan_fast.data.vocabulary import Vocabulary, words_of
from dmgan_fast.errors import DataError

NAME = "CUB or COCO as AttnGAN's users have them"
SIGN = "train/filenames.pickle"
SPLITS = ("train", "test")
PARTS = ("train2014", "val2014", "train2017", "val2017")


def is_here(folder: Path) -> bool:
    return any((folder / split / "filenames.pickle").is_file() for split in SPLITS)


def needed(folder: Path) -> dict[str, bool]:
    return {
        "train/filenames.pickle and test/filenames.pickle": is_here(folder),
        "captions.pickle or text/": (folder / "captions.pickle").is_file() or text_folder(folder) is not None,
        f"{cub.FOLDER}/images/ or images/": _images_folder(folder) is not None,
    }


def read(folder: Path) -> Contents:
    gatherer = Gatherer()
    vocabulary = None
    for number, split in enumerate(SPLITS):
        if (folder / split / "filenames.pickle").is_file():
            vocabulary = _read_split(folder, split, number, gatherer) or vocabulary
        else:
            gatherer.notes.append(f"{split}/filenames.pickle is not there, so there are no {split} images")
    return gatherer.contents(folder, NAME, vocabulary)


def _read_split(folder: Path, split: str, number: int, gatherer: Gatherer) -> Vocabulary | None:
    keys = _keys(folder / split / "filenames.pickle")
    captions, vocabulary = _captions(folder, split, number, keys)
    classes = _classes(folder, split, keys)
    root = _images_folder(folder)
    if root is None:
        raise DataError(f"{folder}: no images; looked for {folder / cub.FOLDER / 'images'} and {folder / 'images'}")
    images, boxes = Files(root, anywhere=True), _boxes(folder)
    for key, (said, why), class_id in zip(keys, captions, classes, strict=True):
        fault = (NO_CAPTION, why) if why else None
        if boxes and key not in boxes:
            fault = BROKEN, f"{cub.root_of(folder) / 'bounding_boxes.txt'} has no box for {key}"
        gatherer.add(key, images.find(key), said, split=split, class_id=class_id, fault=fault, box=boxes.get(key))
    return vocabulary


def _keys(file: Path) -> list[str]:
    keys = read_pickle(file)
    if not isinstance(keys, (list, tuple)) or not all(isinstance(key, str) for key in keys):
        raise DataError(f"{file}: expected a list of keys")
    if not keys:
        raise DataError(f"{file} has no images in it")
    return [without_suffix(tidy(key)) for key in keys]


def _images_folder(folder: Path) -> Path | None:
    own = [cub.root_of(folder) / "images"] if cub.root_of(folder) != folder else []
    for root in (*own, folder / "images", folder / "jpg"):
        if root.is_dir():
            return root
    return folder if any((folder / part).is_dir() for part in PARTS) else None


def _boxes(folder: Path) -> dict[str, Box]:
    root = cub.root_of(folder)
    return cub.boxes(root) if root != folder else {}


def _captions(
    folder: Path, split: str, number: int, keys: list[str]
) -> tuple[list[tuple[tuple[str, ...], str]], Vocabulary | None]:
    """For each key its captions, or none and why not; the vocabulary of captions.pickle."""
    file = folder / "captions.pickle"
    if not file.is_file():
        texts = Captions(text_folder(folder) or folder / "text", anywhere=True)
        return [texts.of(key) for key in keys], None
    content = read_pickle(file)
    if not isinstance(content, (list, tuple)) or len(content) < 4 or not isinstance(content[2], dict):
        raise DataError(f"{file}: expected [train captions, test captions, ixtoword, wordtoix]")
    with words_of(file):
        vocabulary = Vocabulary.from_official(content[2])
    rows = content[number]
    if not isinstance(rows, (list, tuple)):
        raise DataError(f"{file}: the {split} captions must be a list of captions, each a list of word indices")
    per_image, rest = divmod(len(rows), len(keys))
    if rest or not per_image:
        raise DataError(f"{file}: {len(rows)} {split} captions do not divide among {len(keys)} images")
    said = _decoded(file, rows, content[2])
    return [(tuple(said[k * per_image : (k + 1) * per_image]), "") for k in range(len(keys))], vocabulary


def _decoded(file: Path, rows: Any, words: dict[int, str]) -> list[str]:
    try:
        return [" ".join(words[index] for index in row) for row in rows]
    except (KeyError, TypeError) as error:
        raise DataError(f"{file}: a caption holds an index that ixtoword does not have: {error}") from None


def _classes(folder: Path, split: str, keys: list[str]) -> list[int] | list[None]:
    file = folder / split / "class_info.pickle"
    if not file.is_file():
        return [None] * len(keys)
    classes = read_pickle(file)
    if not isinstance(classes, (list, tuple)) or len(classes) != len(keys):
        raise DataError(f"{file}: expected {len(keys)} classes, one for each key")
    try:
        return [int(value) for value in classes]
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{file}: a class must be a whole number: {error}") from None
