"""Captioned images: the embedded demo set, CUB, COCO, flowers, or any folder (docs/data.md)."""

from __future__ import annotations

from dmgan_fast.data.check import Report, check_data, open_checked, open_readable
from dmgan_fast.data.conversion import convert
from dmgan_fast.data.dataset import CaptionedPictures, PictureItem
from dmgan_fast.data.facts import Purpose
from dmgan_fast.data.loader import PictureBatch, make_loader
from dmgan_fast.data.opening import open_dataset
from dmgan_fast.data.record import Record
from dmgan_fast.data.sharding import shard
from dmgan_fast.data.vocabulary import Vocabulary

__all__ = [
    "CaptionedPictures",
    "PictureBatch",
    "PictureItem",
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
