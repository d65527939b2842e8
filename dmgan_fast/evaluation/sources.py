"""The sets of images that are compared: generated here, generated elsewhere, real. 8-bit, all of one resolution."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from dmgan_fast.data import CaptionedImages, Record
from dmgan_fast.data.captions import choose_words
from dmgan_fast.data.dataset import read_image
from dmgan_fast.data.layouts import captions_file
from dmgan_fast.data.randomness import generator as randomness
from dmgan_fast.data.record import read_bytes
from dmgan_fast.errors import DataError, InputError
from dmgan_fast.files import replace_file, write_text
from dmgan_fast.images import pixels_of, to_bytes
from dmgan_fast.sampling.sampler import POSITION_STRIDE, Sampler

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm")
READERS = min(16, os.cpu_count() or 1)
Tick = Callable[..., None]  # called after each file read, for a progress bar


class ImageSet(Protocol):
    """``key``: of the contents; ``captions`` and ``class_ids``: of each image, None where there are none."""

    key: str
    resolution: int

    @property
    def captions(self) -> list[str] | None: ...

    @property
    def class_ids(self) -> list[int] | None: ...

    def __len__(self) -> int: ...

    def images(self, rows: range) -> Tensor:
        """uint8 ``[n, 3, S, S]``."""


class GeneratedImages:
    """Images generated from a data set's captions.

    Image n shows record ``n mod M`` of M; each time round, a record's next caption in a seeded order is taken, so no
    caption comes twice before all have been used. An image depends on its caption, ``seed`` and ``n`` only.
    """

    def __init__(
        self,
        sampler: Sampler,
        dataset: CaptionedImages,
        *,
        weights: str,
        count: int,
        seed: int,
        max_words: int,
        batch_size: int,
    ) -> None:
        self.sampler, self.seed, self.max_words, self.batch_size = sampler, seed, max_words, batch_size
        self.resolution = sampler.generator.config.image_sizes[-1]
        records = dataset.records
        known = [[said for said in record.captions if sampler.vocabulary.encode(said)[0]] for record in records]
        orders = [
            torch.randperm(len(captions), generator=randomness(seed, "captions", index)).tolist()
            for index, captions in enumerate(known)
        ]
        self.captions: list[str] = []
        self.class_ids: list[int] = []
        for n in range(count):
            turn, index = divmod(n, len(records))
            self.captions.append(known[index][orders[index][turn % len(orders[index])]])
            self.class_ids.append(records[index].class_id)
        said = hashlib.sha256("\n".join(self.captions).encode()).hexdigest()
        self.key = (
            f"drawn weights={weights} captions={said} count={count} "  # codespell:ignore drawn
            f"seed={seed} max_words={max_words} "
            f"batch={batch_size} device={sampler.text_encoder.embedding.weight.device.type}"
        )

    def __len__(self) -> int:
        return len(self.captions)

    def images(self, rows: range) -> Tensor:
        found = []
        for start in range(rows.start, rows.stop, self.batch_size):
            batch = range(start, min(start + self.batch_size, rows.stop))
            known = [self.sampler.vocabulary.encode(self.captions[n])[0] for n in batch]
            words = [chosen_words(indices, self.max_words, n) for indices, n in zip(known, batch, strict=True)]
            images = self.sampler.generate(words, [self.seed * POSITION_STRIDE + n for n in batch]).images[-1]
            bad = (~images.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
            if bad:
                raise InputError(
                    f"the generator gave NaN or infinity for {len(bad)} of {len(batch)} images; the first is image "
                    f"{batch[bad[0]]}, {self.captions[batch[bad[0]]]!r}"
                )
            found.append(to_bytes(images).cpu())
        return torch.cat(found)


class RealImages:
    """A data set's images at one resolution, cut as for training but in the centre and not mirrored."""

    captions, class_ids = None, None

    def __init__(self, dataset: CaptionedImages, tick: Tick = lambda: None) -> None:
        self.dataset = dataset
        self.resolution = dataset.image_sizes[-1]
        contents = _digest(
            (repr((record.box, record.upright)).encode() + read_bytes(record) for record in dataset.records), tick
        )
        size = f"side={self.resolution}"  # keys of features in users' caches, which stay good
        self.key = f"real contents={contents} {size} margin={dataset.margin}"

    def __len__(self) -> int:
        return len(self.dataset)

    def images(self, rows: range) -> Tensor:
        with ThreadPoolExecutor(READERS) as readers:
            images = list(readers.map(lambda index: self.dataset[index].images[-1], rows))
        return ((torch.stack(images) + 1) * 127.5).round().byte()  # they were 8-bit before


class FolderImages:
    """Images in a folder and those below it, in the order of their names; with captions if it has a captions file.

    Raises:
        DataError: if there are none, or they differ in size.
    """

    def __init__(self, path: Path, count: int | None = None, tick: Tick = lambda: None) -> None:
        if not path.is_dir():
            raise DataError(f"no images at {str(path)!r}: not a folder")
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        if not files:
            raise DataError(f"{path} has no images ({', '.join(SUFFIXES)})")
        if count is not None and count > len(files):
            raise DataError(f"{path} has {len(files)} images, but {count} were asked for")
        self.records = [Record(str(file.relative_to(path)), file, (), 0) for file in files[:count]]
        sizes: dict[tuple[int, int], str] = {}
        for record in self.records:
            try:
                with Image.open(record.file) as opened:
                    sizes.setdefault(opened.size, record.key)
            except OSError as error:
                raise DataError(f"image can't be read: {record.file}: {error}") from None
        if len(sizes) > 1 or any(width != height for width, height in sizes):
            shown = ", ".join(f"{key} is {width}x{height}" for (width, height), key in list(sizes.items())[:3])
            raise DataError(f"{path}: images must be square and all of one size; {shown}")
        ((self.resolution, _),) = sizes
        self.key = f"folder contents={_digest((read_bytes(record) for record in self.records), tick)}"
        self.captions, self.class_ids = self._captions(path)

    def __len__(self) -> int:
        return len(self.records)

    def images(self, rows: range) -> Tensor:
        with ThreadPoolExecutor(READERS) as readers:
            return torch.stack(list(readers.map(lambda n: pixels_of(read_image(self.records[n])), rows)))

    def _captions(self, path: Path) -> tuple[list[str] | None, list[int] | None]:
        """Of every image, or of none: one without a caption leaves nothing to compare it with."""
        if not captions_file.is_here(path):
            return None, None
        contents = captions_file.read(path)
        if contents.lost:
            raise DataError("; ".join(item.why for item in contents.lost))
        said = {row.record.file: row.record for row in contents.rows if row.fault is None}
        if not all(record.file in said for record in self.records):
            return None, None
        found = [said[record.file] for record in self.records]
        return [record.captions[0] for record in found], [record.class_id for record in found]


class Gallery:
    """Generated images as PNG files, with their captions, so that the folder can be evaluated as any other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has(self, rows: range) -> bool:
        """Whether these images are there."""
        return all(self._file(n).is_file() for n in rows)

    def write(self, images: Tensor, rows: range) -> None:
        """Write uint8 images ``[n, 3, S, S]``, each whole or not at all."""
        for image, n in zip(images, rows, strict=True):
            with replace_file(self._file(n)) as temporary:
                Image.fromarray(image.permute(1, 2, 0).numpy()).save(temporary, "PNG")

    def write_captions(self, captions: list[str], class_ids: list[int]) -> None:
        """Write ``captions.jsonl``."""
        lines = [
            {"image": self._file(n).name, "captions": [caption], "class_id": class_id, "split": "test"}
            for n, (caption, class_id) in enumerate(zip(captions, class_ids, strict=True))
        ]
        write_text(
            self.folder / "captions.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        )

    def _file(self, n: int) -> Path:
        return self.folder / f"{n:06d}.png"


def chosen_words(indices: Sequence[int], max_words: int, position: int) -> list[int]:
    """The words that stand for a caption: of a long one, a choice that depends on its position only."""
    return choose_words(indices, max_words, randomness("words", position))


def _digest(contents: Iterable[bytes], tick: Tick) -> str:
    total = hashlib.sha256()
    for content in contents:
        total.update(hashlib.sha256(content).digest())
        tick()
    return total.hexdigest()
