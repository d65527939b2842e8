"""What a reader finds in a data set: a row for each image, and by name whatever became no row."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from dmgan_fast.data.record import Record
from dmgan_fast.data.splits import assign, role_of
from dmgan_fast.data.texts import printable
from dmgan_fast.data.vocabulary import Vocabulary

# Why something can't be used. What is bad stops a run unless it is told to continue without.
MISSING, UNREADABLE, BROKEN = "missing image", "unreadable image", "broken row"
NO_CAPTION, NO_KNOWN_WORD = "no caption", "no known word"
NO_IMAGE, OTHER_SPLIT = "text without an image", "in no split"
BAD = (MISSING, UNREADABLE, BROKEN, NO_CAPTION, NO_KNOWN_WORD)

LARGEST_CLASS = 2**63 - 1
CROP_MARGIN = 76 / 64  # images are resized to this times the resolution, then cropped, as the authors do


@dataclass(frozen=True)
class LeftOut:
    """What is not used: its name, the kind of reason (above), and the reason as a sentence that holds the name."""

    name: str
    kind: str
    why: str


@dataclass(frozen=True)
class Row:
    """An image with what is said of it.

    ``split``: its name as written, empty if none. ``lines``: rows of the source that it stands for. ``fault``: why it
    can't be used.
    """

    record: Record
    split: str
    own_class: bool
    lines: int = 1
    fault: LeftOut | None = None


@dataclass(frozen=True)
class Contents:
    """A data set as it was read.

    ``lost``: what became no row. ``notes``: sentences for people. ``vocabulary``: the set's own, if it brings one.
    ``window``: archives whose images are shuffled together; 0: all images are.
    """

    source: str
    layout: str
    rows: tuple[Row, ...]
    lost: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    vocabulary: Vocabulary | None = None
    margin: float = CROP_MARGIN
    embedded: bool = False
    window: int = 0
    roles: tuple[str | None, ...] = field(init=False)

    def __post_init__(self) -> None:
        roles = assign((row.record.key, row.split) for row in self.rows)
        object.__setattr__(self, "roles", tuple(roles))

    @property
    def there(self) -> int:
        """Rows that the source holds."""
        return sum(row.lines for row in self.rows) + len(self.lost)

    def part(self, role: str | None) -> list[Row]:
        """Rows of ``"train"``, of ``"test"`` or (None) of neither, usable or not."""
        return [row for row, own in zip(self.rows, self.roles, strict=True) if own == role]

    def split_names(self) -> dict[str, int]:
        """Rows of each split, by the names as written; no name is the empty one."""
        return dict(Counter(row.split for row in self.rows))

    def in_no_split(self) -> list[LeftOut]:
        """Rows that neither training nor held-out images take."""
        return [
            LeftOut(row.record.key, OTHER_SPLIT, f"{row.record.key} is in split {row.split!r}")
            for row in self.part(None)
        ]


class Gatherer:
    """Collects rows while a reader goes through a data set, and numbers the classes at the end."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._lost: list[LeftOut] = []
        self.notes: list[str] = []

    def add(
        self,
        key: str,
        image: tuple[Path | None, str],
        captions: Iterable[str],
        *,
        split: Any = "",
        class_id: Any = None,
        lines: int = 1,
        fault: tuple[str, str] | None = None,
        **place: Any,
    ) -> None:
        """One image.

        Args:
            key: its name.
            image: the file, or None and why there is none.
            captions: what is said; blank ones do not count.
            split: as written.
            class_id: a number or a name; None: of its own.
            lines: rows of the source that say so.
            fault: kind and sentence, if the row can't be used.
            place: further fields of ``Record``.
        """
        said = tuple(text.strip() for text in captions if text.strip())
        file, why = image
        if fault is None and file is None:
            fault = MISSING, f"{key}: image {why}"
        if fault is None and not said:
            fault = NO_CAPTION, f"{key} has no caption with a known word and no caption at all"
        number = None if class_id is None or class_id == "" else whole_number(class_id)
        if fault is None and number is not None and not -LARGEST_CLASS <= number <= LARGEST_CLASS:
            fault, number = (BROKEN, f"{key}: the class {class_id} is too large a number"), None
        self._rows.append(
            {
                "key": printable(key),
                "file": file or Path(key),
                "captions": said,
                "split": "" if split is None else printable(str(split)).strip(),
                "class": class_id if number is None and class_id not in (None, "") else number,
                "lines": lines,
                "fault": LeftOut(printable(key), fault[0], printable(fault[1])) if fault else None,
                "place": place,
            }
        )

    def lose(self, name: str, kind: str, why: str) -> None:
        """Something that became no row."""
        self._lost.append(LeftOut(printable(name), kind, printable(why)))

    def hold_out(self) -> None:
        """Where files or folders are there for training only, hold some of them out, as if they had no split."""
        names = {row["split"] for row in self._rows}
        if names and all(role_of(name) == "train" for name in names):
            self.notes.append(
                f"there is only {', '.join(sorted(names))}, so about one image in ten is held out by its name"
            )
            for row in self._rows:
                row["split"] = ""

    def contents(self, source: Path | str, layout: str, vocabulary: Vocabulary | None = None) -> Contents:
        """What was collected. Named classes get numbers after the given ones, images without a class after those."""
        classes = _number([row["class"] for row in self._rows])
        rows = tuple(
            Row(
                record=Record(row["key"], row["file"], row["captions"], class_id, **row["place"]),
                split=row["split"],
                own_class=row["class"] is None,
                lines=row["lines"],
                fault=row["fault"],
            )
            for row, class_id in zip(self._rows, classes, strict=True)
        )
        return Contents(str(source), layout, rows, tuple(self._lost), tuple(self.notes), vocabulary)


def _number(classes: Sequence[Any]) -> list[int]:
    taken = {value for value in classes if isinstance(value, int)}
    largest = max(taken, default=-1)
    free = (number for number in count(largest + 1 if largest < LARGEST_CLASS // 2 else 0) if number not in taken)
    names = sorted({str(value) for value in classes if value is not None and not isinstance(value, int)})
    by_name = {name: next(free) for name in names}
    return [
        value if isinstance(value, int) else next(free) if value is None else by_name[str(value)] for value in classes
    ]


def whole_number(value: Any) -> int | None:
    """``value`` as a whole number, from text too; None if it is none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and value == int(value) else None
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return None
