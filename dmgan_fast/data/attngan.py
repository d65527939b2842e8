"""CUB and COCO in the layout of AttnGAN's users.

DIR/captions.pickle            [train captions, test captions, ixtoword, wordtoix], or made from text/
DIR/train/filenames.pickle     keys, as 001.Black_footed_Albatross/Black_Footed_Albatross_0046_18
DIR/test/filenames.pickle
DIR/train/class_info.pickle    a class for each key (CUB; COCO has none, each picture is its own class)
DIR/text/KEY.txt               captions, one a line
DIR/CUB_200_2011/              images/KEY.jpg, images.txt, bounding_boxes.txt
DIR/images/KEY.jpg             (COCO)

Pictures are taken as stored, whatever their EXIF data say: the boxes are measured so, and the authors read them so.
"""

from __future__ import annotations

from pathlib import Path

from dmgan_fast.data.dataset import Record
from dmgan_fast.data.pickles import read_pickle
from dmgan_fast.data.vocabulary import Vocabulary
from dmgan_fast.errors import DataError

CUB_FOLDER = "CUB_200_2011"


def is_here(folder: Path) -> bool:
    """Whether ``folder`` has this layout."""
    return (folder / "train" / "filenames.pickle").is_file() or (folder / "test" / "filenames.pickle").is_file()


def read_records(folder: Path, split: str) -> tuple[list[Record], Vocabulary | None]:
    """Records of a split, and the vocabulary of ``captions.pickle`` (None if the captions come from ``text/``).

    Raises:
        DataError: for files that are missing, broken or do not belong together.
    """
    keys = read_pickle(folder / split / "filenames.pickle")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise DataError(f"{folder / split / 'filenames.pickle'}: expected a list of keys")
    if not keys:
        raise DataError(f"{folder / split / 'filenames.pickle'} has no pictures in it")
    captions, vocabulary = _captions(folder, split, keys)
    classes = _classes(folder, split, keys)
    cub = folder / CUB_FOLDER
    boxes = _boxes(cub) if cub.is_dir() else {}
    images = cub / "images" if cub.is_dir() else folder / "images"
    if not images.is_dir():
        raise DataError(f"{folder}: no pictures; looked for {cub / 'images'} and {folder / 'images'}")
    if boxes:
        without = next((key for key in keys if key not in boxes), None)
        if without:
            raise DataError(f"{cub / 'bounding_boxes.txt'} has no box for {without}")
    records = [
        Record(key=key, picture=images / f"{key}.jpg", captions=said, class_id=class_id, box=boxes.get(key))
        for key, said, class_id in zip(keys, captions, classes, strict=True)
    ]
    return records, vocabulary


def _captions(folder: Path, split: str, keys: list[str]) -> tuple[list[tuple[str, ...]], Vocabulary | None]:
    file = folder / "captions.pickle"
    if not file.is_file():
        return [_text(folder / "text" / f"{key}.txt") for key in keys], None
    content = read_pickle(file)
    if not isinstance(content, (list, tuple)) or len(content) < 4 or not isinstance(content[2], dict):
        raise DataError(f"{file}: expected [train captions, test captions, ixtoword, wordtoix]")
    vocabulary = Vocabulary.from_official(content[2])
    rows = content[0 if split == "train" else 1]
    if not isinstance(rows, (list, tuple)):
        raise DataError(f"{file}: the {split} captions must be a list, got {type(rows).__name__}")
    per_picture, rest = divmod(len(rows), max(1, len(keys)))
    if rest or not per_picture:
        raise DataError(f"{file}: {len(rows)} {split} captions do not divide among {len(keys)} pictures")
    try:
        texts = [" ".join(content[2][index] for index in row) for row in rows]
    except (KeyError, TypeError) as error:
        raise DataError(f"{file}: a caption holds an index that ixtoword does not have: {error}") from None
    return [tuple(texts[k * per_picture : (k + 1) * per_picture]) for k in range(len(keys))], vocabulary


def _text(file: Path) -> tuple[str, ...]:
    try:
        lines = file.read_text(encoding="utf-8-sig", errors="replace").split("\n")  # splitlines() cuts at U+0085 too
    except OSError as error:
        raise DataError(f"captions can't be read: {error}") from None
    return tuple(line.strip() for line in lines if line.strip())


def _classes(folder: Path, split: str, keys: list[str]) -> list[int]:
    file = folder / split / "class_info.pickle"
    if not file.is_file():
        return list(range(len(keys)))
    classes = read_pickle(file)
    if not isinstance(classes, (list, tuple)) or len(classes) != len(keys):
        raise DataError(f"{file}: expected {len(keys)} classes, one for each key")
    try:
        return [int(value) for value in classes]
    except (TypeError, ValueError) as error:
        raise DataError(f"{file}: a class must be a whole number: {error}") from None


def _boxes(cub: Path) -> dict[str, tuple[float, float, float, float]]:
    """Key → x, y, width, height."""
    try:
        names = dict(
            line.split(maxsplit=1)
            for line in (cub / "images.txt").read_text(encoding="utf-8-sig").splitlines()
            if line.strip()
        )
        rows = [
            line.split()
            for line in (cub / "bounding_boxes.txt").read_text(encoding="utf-8-sig").splitlines()
            if line.strip()
        ]
        return {
            names[number].strip().rsplit(".", 1)[0]: (float(x), float(y), float(w), float(h))
            for number, x, y, w, h in rows
        }
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"bounding boxes of {cub} can't be read: {error!r}") from None
