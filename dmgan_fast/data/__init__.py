"""Captioned pictures: the embedded demo set, CUB, COCO, or any folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from dmgan_fast.data import attngan, demo, folder
from dmgan_fast.data.dataset import CROP_MARGIN, CaptionedPictures, PictureItem, Record
from dmgan_fast.data.loader import PictureBatch, make_loader
from dmgan_fast.data.vocabulary import Vocabulary
from dmgan_fast.errors import DataError, InputError

SPLITS = ("train", "test")

__all__ = [
    "CaptionedPictures",
    "PictureBatch",
    "PictureItem",
    "Record",
    "Vocabulary",
    "make_loader",
    "open_dataset",
]


def open_dataset(
    source: str | os.PathLike[str],
    split: str = "train",
    *,
    image_sizes: Sequence[int] = (64, 128, 256),
    max_words: int = 18,
    seed: int = 0,
    vocabulary: Vocabulary | None = None,
    augment: bool | None = None,
) -> CaptionedPictures:
    """Open a data set, whichever layout it has.

    Args:
        source: ``"demo"`` for the embedded set, or a folder: CUB or COCO as AttnGAN's users have them, or pictures
            with ``captions.jsonl`` or ``captions.csv``.
        split: ``"train"`` or ``"test"``.
        image_sizes: sides, smallest first.
        max_words: words a caption is cut to.
        seed: of captions, crops and flips.
        vocabulary: of a trained text encoder; None takes the data set's own, from its training captions.
        augment: None: in training only.

    Raises:
        DataError: if nothing known is found there; says what was looked for.
    """
    if split not in SPLITS:
        raise InputError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    margin, own = CROP_MARGIN, None
    if str(source) == "demo":
        records, train = demo.read_records(split), demo.read_records("train")
        margin = 1.0
    else:
        path = Path(source)
        if not path.is_dir():
            raise DataError(f"no data set at {str(path)!r}: not a folder (or give 'demo' for the embedded set)")
        if attngan.is_here(path):
            records, own = attngan.read_records(path, split)
            train = records if own or split == "train" else attngan.read_records(path, "train")[0]
        elif folder.is_here(path):
            records, train = folder.read_records(path, split), folder.read_records(path, "train")
        else:
            raise DataError(
                f"no data set at {str(path)!r}: looked for train/filenames.pickle (CUB, COCO) "
                f"and for {' and '.join(folder.FILES)}"
            )
    if not records:
        raise DataError(f"{str(source)!r} has no pictures in its {split} split")
    vocabulary = vocabulary or own or Vocabulary.from_captions(text for record in train for text in record.captions)
    return CaptionedPictures(
        records,
        vocabulary,
        image_sizes,
        max_words,
        seed=seed,
        augment=split == "train" if augment is None else augment,
        margin=margin,
        keep_decoded=str(source) == "demo",
    )
