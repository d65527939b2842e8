"""Captioned images at every resolution a model generates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import Dataset

from dmgan_fast.data.cache import ImageCache
from dmgan_fast.data.captions import choose_words, pad
from dmgan_fast.data.order import Shards
from dmgan_fast.data.randomness import generator
from dmgan_fast.data.record import Record, read_bytes, where
from dmgan_fast.data.remote import local
from dmgan_fast.data.rows import CROP_MARGIN, LeftOut
from dmgan_fast.data.vocabulary import Vocabulary
from dmgan_fast.errors import DataError, InputError
from dmgan_fast.foreign import what_instead
from dmgan_fast.images import pixels_of

FETCHERS = 4  # archives fetched at the same time


class ImageItem(NamedTuple):
    """``images``: ``[3, S, S]`` in [-1, 1] per resolution; ``caption [T]`` int64; ``length``, ``class_id``; ``key``."""

    images: list[Tensor]
    caption: Tensor
    length: int
    class_id: int
    key: str


class RawItem(NamedTuple):
    """As workers send it. ``image``: ``[3, S, S]`` uint8, cropped; ``flip``: whether it is to be mirrored; as above."""

    image: Tensor
    flip: bool
    caption: Tensor
    length: int
    class_id: int
    key: str


class CaptionedImages(Dataset[ImageItem]):
    """Images with a caption chosen for each visit.

    What is chosen (caption, words of a long one, crop, flip) depends on ``(seed, epoch, index)`` only, so any number
    of workers gives the same data. Without ``augment`` the first caption, the centre and no flip are taken.

    Args:
        records: the images.
        vocabulary: words and indices.
        image_sizes: resolutions, smallest first.
        max_words: ``T``.
        seed: of the choices.
        augment: random caption, crop and flip.
        margin: images are resized to ``margin`` times the highest resolution before the crop; 1 keeps them whole.
        cache_bytes: of memory for decoded images, which workers share; 0: decode at each visit.
        shards: in which order to visit them, where they lie in shards.
        left_out: what of the data set is not among the images, kept for the user to read.

    Raises:
        DataError: for an image none of whose captions has a known word.
    """

    def __init__(
        self,
        records: Sequence[Record],
        vocabulary: Vocabulary,
        image_sizes: Sequence[int],
        max_words: int,
        *,
        seed: int = 0,
        augment: bool = True,
        margin: float = CROP_MARGIN,
        cache_bytes: int = 0,
        shards: Shards | None = None,
        left_out: Sequence[LeftOut] = (),
    ) -> None:
        if not image_sizes or list(image_sizes) != sorted(image_sizes) or image_sizes[0] < 1:
            raise InputError(f"image_sizes must be resolutions in growing order, got {tuple(image_sizes)}")
        if max_words < 1:
            raise InputError(f"max_words must be at least 1, got {max_words}")
        if not records:
            raise DataError("the data set holds no images")
        self.records = list(records)
        self.left_out = tuple(left_out)
        self.vocabulary = vocabulary
        self.image_sizes = tuple(image_sizes)
        self.max_words = max_words
        self.seed = seed
        self.epoch = 0
        self.augment = augment
        self.margin = margin
        self.shards = shards
        self.cache = ImageCache(len(self.records), cache_bytes) if cache_bytes else None
        self._captions = [self._encode(record) for record in self.records]

    def __len__(self) -> int:
        return len(self.records)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"cache": None}  # shared by forking only

    @contextmanager
    def fetching_ahead(self) -> Iterator[Callable[[Sequence[int]], object] | None]:
        """Give what fetches archives in the background, by their numbers in ``shards``; None where none is far away."""
        shards = [] if self.shards is None else self.shards.of.tolist()
        remotes = {shard: record.remote for shard, record in zip(shards, self.records, strict=False) if record.remote}
        if not remotes:
            yield None
            return
        fetcher = ThreadPoolExecutor(FETCHERS, thread_name_prefix="shards")
        try:
            yield lambda wanted: [fetcher.submit(local, remotes[shard]) for shard in wanted if shard in remotes]
        finally:
            fetcher.shutdown(wait=False, cancel_futures=True)

    def set_epoch(self, epoch: int) -> None:
        """Choose anew for another pass over the data."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> ImageItem:
        raw = self.visit(self.epoch, index)
        images = scaled(raw.image[None], torch.tensor([raw.flip]), self.image_sizes)
        return ImageItem([image[0] for image in images], raw.caption, raw.length, raw.class_id, raw.key)

    def visit(self, epoch: int, index: int) -> RawItem:
        """An image with what is chosen for it in this epoch, before it is scaled."""
        record, captions = self.records[index], self._captions[index]
        choose = generator(self.seed, epoch if self.augment else 0, index)
        caption = captions[int(torch.randint(len(captions), (), generator=choose))] if self.augment else captions[0]
        words = choose_words(caption, self.max_words, choose)
        image, flip = self._crop(index, choose)
        return RawItem(image, flip, pad(words, self.max_words), len(words), record.class_id, record.key)

    def _encode(self, record: Record) -> list[list[int]]:
        captions = [self.vocabulary.encode(caption)[0] for caption in record.captions]
        captions = [caption for caption in captions if caption]
        if not captions:
            said = f"; its first caption is {record.captions[0]!r}" if record.captions else " and no caption at all"
            raise DataError(f"{record.key} has no caption with a known word{said}")
        return captions

    def _crop(self, index: int, choose: torch.Generator) -> tuple[Tensor, bool]:
        side = self.image_sizes[-1]
        image = self._resized(index, round(side * self.margin))
        height, width = image.shape[1:]
        shares = torch.rand(3, generator=choose).tolist() if self.augment else [0.5, 0.5, 1.0]
        top, left = int(shares[0] * (height - side + 1)), int(shares[1] * (width - side + 1))
        return image[:, top : top + side, left : left + side], shares[2] < 0.5

    def _resized(self, index: int, side: int) -> Tensor:
        """``[3, h, w]`` uint8 whose shorter side is ``side``."""
        if self.cache is not None and (kept := self.cache.get(index)) is not None:
            return kept
        record = self.records[index]
        image = crop_to_box(read_image(record), record.box)
        scale = side / min(image.size)
        size = (max(side, round(image.width * scale)), max(side, round(image.height * scale)))
        pixels = pixels_of(image if image.size == size else image.resize(size, Image.Resampling.BILINEAR))
        if self.cache is not None:
            self.cache.put(index, pixels)
        return pixels


def scaled(images: Tensor, flips: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """What a model is given: mirrored where asked for, at every resolution, in [-1, 1]; on whichever device they are.

    Args:
        images: ``[B, 3, S, S]`` uint8.
        flips: ``[B]`` bool.
        sizes: resolutions, the last of which is ``S``.

    Returns:
        ``[B, 3, s, s]`` float32 for each.
    """
    whole = torch.where(flips[:, None, None, None], images.flip(3), images).float()
    every = [
        whole if s == sizes[-1] else interpolate(whole, size=(s, s), mode="bilinear", antialias=True) for s in sizes
    ]
    return [image / 127.5 - 1 for image in every]


def read_image(record: Record) -> Image.Image:
    """Decode as RGB: gray, palette, CMYK and 16-bit images are converted, transparency is laid on white.

    Raises:
        DataError: naming the file, if it is missing, truncated or no image.
    """
    content = read_bytes(record)
    try:
        with Image.open(BytesIO(content)) as opened:
            image = ImageOps.exif_transpose(opened) if record.upright else opened
            if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                layered = image.convert("RGBA")
                white = Image.new("RGBA", layered.size, "white")
                return Image.alpha_composite(white, layered).convert("RGB")
            if image.mode.startswith("I"):  # 16 bits of gray; Pillow would cut them at 255
                image = Image.fromarray((np.asarray(image) / 257).round().clip(0, 255).astype(np.uint8))
            elif image.mode == "F":
                raise ValueError("its pixels are floating-point numbers, whose range is not known")
            return image.convert("RGB")
    except UnidentifiedImageError:
        why = f"it is {what_instead(content) or 'no image, or of a kind that is not read'}"
        raise DataError(f"image can't be read: {where(record)}: {why}") from None
    except Exception as error:  # a broken image can raise almost anything
        raise DataError(f"image can't be read: {where(record)}: {error}") from None


def crop_to_box(image: Image.Image, box: tuple[float, float, float, float] | None) -> Image.Image:
    """The published crop of CUB: a square around the box's centre, 1.5 times as large as the box's longer side."""
    area = crop_area(image.size, box)
    return image if area is None else image.crop(area)


def crop_area(size: tuple[int, int], box: tuple[float, float, float, float] | None) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom of ``crop_to_box`` in an image of ``size``; None: the whole image."""
    if box is None:
        return None
    x, y, box_width, box_height = (float(np.nan_to_num(value)) for value in box)
    radius = int(max(box_width, box_height) * 0.75)
    centre_x, centre_y = int((2 * x + box_width) / 2), int((2 * y + box_height) / 2)
    left, top = max(0, centre_x - radius), max(0, centre_y - radius)
    right, bottom = min(size[0], centre_x + radius), min(size[1], centre_y + radius)
    if right <= left or bottom <= top:  # a box of no area, or beyond the image: take the image whole
        return None
    return left, top, right, bottom
