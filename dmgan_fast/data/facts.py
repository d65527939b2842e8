"""What is known of a data set before the first step: counted once, judged in ``findings``."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from dmgan_fast.data.captions import tokenize
from dmgan_fast.data.look import ImageLook, Looks, look
from dmgan_fast.data.opening import fault_of, own_vocabulary
from dmgan_fast.data.rows import BAD, UNREADABLE, Contents, LeftOut, Row
from dmgan_fast.data.vocabulary import Vocabulary

# Scripts written without spaces between words: Han and kana, whose words are short; Thai, Lao, Burmese, Khmer.
_SHORT = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_LONG = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")
LETTERS_A_WORD = {_SHORT: 4, _LONG: 8}  # mean length from which words are not divided
ONE_TOKEN = 16  # letters of any script from which a caption of one token is no word


@dataclass(frozen=True)
class Purpose:
    """What a data set is for.

    ``image_size``: highest resolution. ``batch_size``: None if not known. ``matches``: whether images and captions are
    matched within a batch, as DAMSM's losses do. ``skip_bad``: rows that a run may continue without.
    """

    image_size: int
    batch_size: int | None = None
    matches: bool = True
    skip_bad: int = 0


@dataclass
class Words:
    """``known`` and ``unknown`` words; captions without a known one (``dumb``) of images that have others; rows with
    letters that could not be read (``garbled``); and for each row, by identity, what it says in known words."""

    known: int = 0
    unknown: Counter[str] = field(default_factory=Counter)
    dumb: list[tuple[Row, str]] = field(default_factory=list)
    garbled: list[Row] = field(default_factory=list)
    said: dict[int, frozenset[tuple[int, ...]]] = field(default_factory=dict)

    @property
    def unknown_share(self) -> float:
        """Of all words."""
        return self.unknown.total() / max(1, self.known + self.unknown.total())


class Facts:
    """Rows by part, what can't be used and why, and what the usable ones say and show."""

    def __init__(
        self,
        contents: Contents,
        vocabulary: Vocabulary | None,
        *,
        parts: Sequence[str] = ("train", "test"),
        decode: bool = False,
        tick: Callable[[], object] = lambda: None,
    ) -> None:
        self.contents, self.parts = contents, parts
        self.encoders_given = vocabulary is not None
        self.vocabulary = vocabulary or own_vocabulary(contents)
        self.faults = {id(row): fault for row in self._both() if (fault := fault_of(row, self.vocabulary))}
        self.looks = self._look([row for row in self._both() if id(row) not in self.faults], decode, tick)
        self.bad = (
            *(self.faults[id(row)] for row in self._both() if id(row) in self.faults),
            *(item for item in contents.lost if item.kind in BAD),
        )
        self.train, self.test = (
            [row for row in contents.part(part) if id(row) not in self.faults] for part in ("train", "test")
        )

    def _both(self) -> list[Row]:
        return [row for part in self.parts for row in self.contents.part(part)]

    def _look(self, rows: Sequence[Row], decode: bool, tick: Callable[[], object]) -> Looks:
        if self.contents.embedded and not decode:
            looks = Looks({}, decoded=False)
        else:
            looks = look([row.record for row in rows], decode=decode, tick=tick)
        self.seen: dict[int, ImageLook] = {id(rows[index]): found for index, found in looks.at.items()}
        for index, found in looks.at.items():
            if found.fault:
                self.faults[id(rows[index])] = LeftOut(rows[index].record.key, UNREADABLE, found.fault)
        return looks

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """Everything that neither part takes, by name."""
        others = (item for item in self.contents.lost if item.kind not in BAD)
        return (*self.bad, *others, *self.contents.in_no_split())

    @property
    def rows(self) -> int:
        """Images and what became none: those of both parts and those left out."""
        return len(self.contents.rows) + len(self.contents.lost)

    def looks_of(self, rows: Sequence[Row]) -> list[tuple[Row, ImageLook]]:
        """Of the rows that were looked at."""
        return [(row, self.seen[id(row)]) for row in rows if id(row) in self.seen]

    @cached_property
    def words(self) -> Words:
        """What the captions of both parts say."""
        found, usable = Words(), {id(row) for row in (*self.train, *self.test)}
        for row in self._both():
            known = set()
            if any("\ufffd" in text for text in row.record.captions):
                found.garbled.append(row)
            for text in row.record.captions:
                indices, unknown = self.vocabulary.encode(text)
                known.add(tuple(indices))
                found.known += len(indices)
                if unknown:
                    found.unknown.update(unknown)
                if not indices and id(row) in usable:
                    found.dumb.append((row, text))
            found.said[id(row)] = frozenset(known)
        return found

    @cached_property
    def unseparated(self) -> tuple[int, int, int, str]:
        """Of all captions for training: how many, those whose words nothing divides, different ones, one of them."""
        texts = [text for row in self.contents.part("train") for text in row.record.captions]
        found = [text for text in texts if is_unseparated(text)]
        return len(texts), len(found), len(set(found)), found[0] if found else ""

    def same_class_share(self, rows: Sequence[Row]) -> float:
        """Pairs of images that are of one class, of all pairs."""
        return _share_of_pairs(Counter(row.record.class_id for row in rows).values(), len(rows))

    def same_words_share(self, rows: Sequence[Row]) -> float:
        """Pairs with the same captions in different classes, of all pairs."""
        alike = Counter(self.words.said[id(row)] for row in rows)
        both = Counter((self.words.said[id(row)], row.record.class_id) for row in rows)
        return _share_of_pairs(alike.values(), len(rows)) - _share_of_pairs(both.values(), len(rows))

    @cached_property
    def same_images(self) -> list[list[Row]]:
        """Groups of usable rows whose images are the same to the byte, as far as was looked."""
        groups: dict[str, list[Row]] = defaultdict(list)
        for row, found in self.looks_of([*self.train, *self.test]):
            groups[found.digest].append(row)
        return [rows for rows in groups.values() if len(rows) > 1]


def _share_of_pairs(groups: Iterable[int], count: int) -> float:
    return sum(n * (n - 1) for n in groups) / max(1, count * (count - 1))


def is_unseparated(text: str) -> bool:
    """Whether nothing divides the words of a caption, so that it reads as one or few endless ones."""
    if text.isascii() and " " in text.strip():
        return False
    tokens = tokenize(text)
    if len(tokens) == 1 and len(tokens[0]) >= ONE_TOKEN:
        return True
    for script, most in LETTERS_A_WORD.items():
        lengths = [len(found) for token in tokens if (found := script.findall(token))]
        if lengths and sum(lengths) / len(lengths) >= most:
            return True
    return False
