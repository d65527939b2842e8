"""From a source to the two parts of a data set: what is in it, what can't be used, what a run continues with."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dmgan_fast.data import demo, layouts
from dmgan_fast.data.dataset import CaptionedImages
from dmgan_fast.data.layouts import webdataset
from dmgan_fast.data.order import Shards
from dmgan_fast.data.record import Record
from dmgan_fast.data.remote import is_remote
from dmgan_fast.data.rows import BAD, NO_KNOWN_WORD, Contents, LeftOut, Row
from dmgan_fast.data.vocabulary import Vocabulary
from dmgan_fast.errors import DataError, InputError

SPLITS = ("train", "test")
NAMED = 100  # names in a message; the rest is counted
EXPLAINED = 3  # of a kind: so many are told one by one, more are counted and named
EMBEDDED = 256 << 20  # bytes of memory for decoded images of the embedded set, where nobody says
log = logging.getLogger("dmgan_fast")


def read_set(source: str | os.PathLike[str]) -> Contents:
    """Every row of a data set, of both parts and of none, and by name what became none.

    Args:
        source: as in ``open_dataset``.

    Raises:
        DataError: if its layout is not known or nothing in it can be read.
    """
    if str(source) == "demo":
        return demo.read()
    return webdataset.read_remote(str(source)) if is_remote(source) else layouts.read(Path(source))


def open_dataset(
    source: str | os.PathLike[str],
    split: str = "train",
    *,
    image_sizes: Sequence[int] = (64, 128, 256),
    max_words: int = 18,
    seed: int = 0,
    vocabulary: Vocabulary | None = None,
    augment: bool | None = None,
    skip_bad: int = 0,
    cache_bytes: int | None = None,
) -> CaptionedImages:
    """Open a data set, whichever layout it has.

    Args:
        source: ``"demo"`` for the embedded set, a folder in one of the layouts of docs/data.md, or the address of
            shards, as ``s3://bucket/birds``.
        split: ``"train"`` or ``"test"``, also for sets that call them otherwise (``Train``, ``val2014``).
        image_sizes: resolutions, smallest first.
        max_words: words a caption is cut to.
        seed: of captions, crops and flips.
        vocabulary: of a trained text encoder; None takes the data set's own, from its training captions.
        augment: None: in training only.
        skip_bad: continue without at most so many images that can't be used; ``left_out`` of the result names them.
        cache_bytes: of memory for decoded images; None: enough for the embedded set, none for others.

    Raises:
        DataError: if nothing known is found there (says what is near and what is missing); if images are missing or
            have no captions that can be used (names all of them).
    """
    if split not in SPLITS:
        raise InputError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    settings: dict[str, Any] = {} if cache_bytes is None else {"cache_bytes": cache_bytes}
    images = open_split(
        read_set(source),
        split,
        skip_bad=skip_bad,
        image_sizes=image_sizes,
        max_words=max_words,
        seed=seed,
        vocabulary=vocabulary,
        augment=split == "train" if augment is None else augment,
        **settings,
    )
    if images.left_out:
        log.warning("%s, split %s: left out: %s", source, split, named(images.left_out))
    return images


def open_split(
    contents: Contents,
    split: str,
    *,
    vocabulary: Vocabulary | None = None,
    skip_bad: int = 0,
    without: Mapping[int, LeftOut] | None = None,
    **settings: Any,
) -> CaptionedImages:
    """One part of a data set that was read.

    Args:
        contents: what ``read_set`` gave.
        split: ``"train"`` or ``"test"``.
        vocabulary: as in ``open_dataset``.
        skip_bad: as in ``open_dataset``.
        without: by identity, rows to leave out that are known to be faulty.
        settings: of ``CaptionedImages``.
    """
    words = vocabulary or own_vocabulary(contents)
    known, rows = without or {}, contents.part(split)
    faults = {id(row): fault for row in rows if (fault := known.get(id(row)) or fault_of(row, words))}
    bad = [*faults.values(), *(item for item in contents.lost if item.kind in BAD)]
    require_few(contents, bad, skip_bad)
    if contents.embedded:
        settings.setdefault("cache_bytes", EMBEDDED)
    good = [row.record for row in rows if id(row) not in faults]
    if not good:
        raise DataError(empty(contents, split))
    aside = [*contents.lost, *contents.in_no_split()]
    return CaptionedImages(
        good,
        words,
        margin=contents.margin,
        shards=_shards(good, contents.window),
        left_out=(*faults.values(), *aside),
        **settings,
    )


def _shards(records: Sequence[Record], window: int) -> Shards | None:
    """Which of its archives each image lies in, numbered as they come."""
    if not window:
        return None
    numbers: dict[Path, int] = {}
    return Shards(torch.tensor([numbers.setdefault(record.file, len(numbers)) for record in records]), window)


def own_vocabulary(contents: Contents) -> Vocabulary:
    """The set's own, or that of its training captions; those of images that can't be used count too, so that the
    vocabulary stays the same once they are mended."""
    if contents.vocabulary is not None:
        return contents.vocabulary
    return Vocabulary.from_captions(text for row in contents.part("train") for text in row.record.captions)


def fault_of(row: Row, vocabulary: Vocabulary) -> LeftOut | None:
    """Why a row can't be used with these words."""
    if row.fault is not None:
        return row.fault
    if any(vocabulary.knows(text) for text in row.record.captions):
        return None
    key = row.record.key
    why = f"{key} has no caption with a known word; its first caption is {row.record.captions[0]!r}"
    return LeftOut(key, NO_KNOWN_WORD, why)


def require_few(contents: Contents, bad: Sequence[LeftOut], skip_bad: int) -> None:
    """Raise ``DataError`` if more can't be used than ``skip_bad``, with all of it by name, and what to do."""
    if len(bad) <= skip_bad:
        return
    allowed = f", and skip_bad allows {skip_bad}" if skip_bad else ""
    raise DataError(
        f"{contents.source!r}: {named(bad)}; {len(bad):,} of {len(contents.rows) + len(contents.lost):,} can't be used"
        f"{allowed}: mend or remove them, or go on without them (skip_bad={len(bad)}, --skip-bad {len(bad)}); "
        "`dmgan-fast check` also looks into the images"
    )


def by_kind(items: Iterable[LeftOut]) -> dict[str, list[LeftOut]]:
    """What is left out, by the kind of reason."""
    kinds: dict[str, list[LeftOut]] = {}
    for item in items:
        kinds.setdefault(item.kind, []).append(item)
    return kinds


def explained(same: Sequence[LeftOut]) -> str:
    """Few of a kind one by one with their reasons, many counted, with the reason of the first."""
    if len(same) <= EXPLAINED:
        return "; ".join(item.why for item in same)
    return f"{len(same):,} × {same[0].kind} (the first: {same[0].why})"


def named(items: Iterable[LeftOut]) -> str:
    """All of it, by kind and by name."""
    kinds = by_kind(items).values()
    return "; ".join(
        explained(same) + ("" if len(same) <= EXPLAINED else f": {names([item.name for item in same])}")
        for same in kinds
    )


def names(items: Sequence[str], most: int = NAMED) -> str:
    """Names, the rest counted."""
    rest = len(items) - most
    return ", ".join(items[:most]) + (f" and {rest:,} more (`dmgan-fast check --json` names all)" if rest > 0 else "")


def splits_found(contents: Contents) -> str:
    """Names of splits as written, with their images."""
    found = [f"{name or 'no split'} ({count})" for name, count in contents.split_names().items()]
    return ", ".join(found) or "none"


def empty(contents: Contents, split: str) -> str:
    """That a part has no images, and what to do."""
    return (
        f"{contents.source!r} has no images in its {split} split; splits found: {splits_found(contents)}. Call one "
        f"{split!r}, or take the names of splits away: then about one image in ten is held out"
    )
