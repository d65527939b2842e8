"""Captioned images: the embedded demo set, CUB, COCO, flowers, or any folder (docs/data.md)."""

from __future__ import annotations

from dmgan_fast.data.check import Report, check_data, open_checked, open_readable
from dmgan_fast.data.conversion import convert
from dmgan_fast.data.dataset import CaptionedImages, ImageItem
from dmgan_fast.data.facts import Purpose
from dmgan_fast.data.loader import ImageBatch, make_loader
from dmgan_fast.data.opening import open_dataset
from dmgan_fast.data.record import Record
from dmgan_fast.data.sharding import shard
from dmgan_fast.data.vocabulary import Vocabulary
from dmgan_fast.old_names import old_names

__all__ = [
    "CaptionedImages",
    "ImageBatch",
    "ImageItem",
    "Purpose",
    "Record",
    "Report",
    "Vocabulary",
    "check_data",
    "convert",
    "make_loader",
    "open_checked",
    "open_dataset",
    "open_readable",
    "shard",
]

__getattr__ = old_names(
    __name__, {"CaptionedPictures": "CaptionedImages", "PictureBatch": "ImageBatch", "PictureItem": "ImageItem"}
)
