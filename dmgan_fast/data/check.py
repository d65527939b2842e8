"""A look at a data set before the first step: what is there, what a run could not use, what would teach nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dmgan_fast.data.dataset import CaptionedImages
from dmgan_fast.data.facts import Facts, Purpose
from dmgan_fast.data.findings import ERROR, WARNING, Finding, judge
from dmgan_fast.data.opening import NAMED, names, open_split, read_set, require_few
from dmgan_fast.data.texts import printable
from dmgan_fast.data.vocabulary import Vocabulary
from dmgan_fast.errors import DataError

BRIEF = 10  # names in a line that a run shows at its start


@dataclass(frozen=True)
class Report:
    """What was found. ``facts`` counts, ``findings`` judge, errors first."""

    facts: Facts
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> list[Finding]:
        """What stops a run."""
        return [finding for finding in self.findings if finding.level == ERROR]

    def to_dict(self) -> dict[str, Any]:
        """Plain values: ``rows`` = ``train`` + ``test`` + the length of ``left_out``."""
        facts = self.facts
        return {
            "source": facts.contents.source,
            "layout": facts.contents.layout,
            "ok": not self.errors,
            "rows": facts.rows,
            "lines": facts.contents.there,
            "train": len(facts.train),
            "test": len(facts.test),
            "splits": facts.contents.split_names(),
            "classes": len({row.record.class_id for row in facts.train}),
            "captions": sum(len(row.record.captions) for row in (*facts.train, *facts.test)),
            "words": len(facts.vocabulary) - 1,
            "unknown_words": facts.words.unknown_share,
            "images": {"looked_at": len(facts.seen), "how": facts.looks.how},
            "left_out": [{"name": item.name, "kind": item.kind, "why": item.why} for item in facts.left_out],
            "findings": [
                {"kind": finding.kind, "level": finding.level, "text": finding.text, "names": list(finding.names)}
                for finding in self.findings
            ],
        }

    def to_json(self) -> str:
        """``to_dict`` as text."""
        return json.dumps(self.to_dict(), indent=2)

    def text(self, most: int = NAMED) -> str:
        """For people, with so many names for each finding."""
        verdict = "a run refuses this set" if self.errors else "a run goes on with this set"
        lines = [*self._summary(), *(_line(finding, most) for finding in self.findings), verdict]
        return printable("\n".join(lines))

    def brief(self) -> str:
        """One line, and what a run should not be started without knowing."""
        shown = [finding for finding in self.findings if finding.level == WARNING]
        return printable("\n".join([self._summary()[0], *(_line(finding, BRIEF) for finding in shown)]))

    def refusal(self) -> str:
        """Every error as one paragraph."""
        return f"{self.facts.contents.source!r}: " + "; ".join(
            finding.text + _names(finding, NAMED) for finding in self.errors
        )

    def _summary(self) -> list[str]:
        facts, left = self.facts, len(self.facts.left_out)
        values = self.to_dict()
        looked = values["images"]["looked_at"]
        more = "" if facts.looks.decoded else " (--decode reads all of every image)"
        return [
            f"{facts.contents.source}: {facts.contents.layout}; {len(facts.train):,} training and {len(facts.test):,} "
            f"held-out images, {left:,} left out",
            f"  {values['captions']:,} captions, {values['words']:,} words, {values['classes']:,} training classes",
            f"  images looked at: {looked:,}, {facts.looks.how}{more}" if looked else "  images not looked at",
        ]


def _line(finding: Finding, most: int) -> str:
    return f"{finding.level}: {finding.text}{_names(finding, most)}"


def _names(finding: Finding, most: int) -> str:
    if len(finding.names) <= finding.told:
        return ""
    return f": {names(finding.names, most)}"


def check_data(
    source: str | os.PathLike[str],
    purpose: Purpose | None = None,
    *,
    vocabulary: Vocabulary | None = None,
    decode: bool = False,
    tick: Callable[[], object] = lambda: None,
) -> Report:
    """Look at a data set.

    Args:
        source: as in ``open_dataset``.
        purpose: what it is for; None: matching images and captions at 256 pixels.
        vocabulary: of given encoders; None: the set's own.
        decode: read all of every image, else only of those of a small set.
        tick: called after each image, from several threads.

    Raises:
        DataError: if no data set is found there at all; what is wrong inside one is in the report.
    """
    facts = Facts(read_set(source), vocabulary, decode=decode, tick=tick)
    return Report(facts, tuple(judge(facts, purpose or Purpose(image_size=256))))


def open_readable(
    source: str | os.PathLike[str],
    split: str,
    *,
    vocabulary: Vocabulary | None = None,
    skip_bad: int = 0,
    **settings: Any,
) -> CaptionedImages:
    """One part of a set whose images were looked at first; ``left_out`` of it names what it continues without.

    Args:
        source, split, vocabulary, skip_bad: as in ``open_dataset``.
        settings: of ``CaptionedImages``.

    Raises:
        DataError: as ``open_dataset``; and if images can't be read, with all of them by name.
    """
    facts = Facts(read_set(source), vocabulary, parts=(split,))
    require_few(facts.contents, facts.bad, skip_bad)
    return _open(facts, split, **settings)


def open_checked(
    source: str | os.PathLike[str],
    purpose: Purpose,
    *,
    vocabulary: Vocabulary | None = None,
    show: Callable[[str], object] = lambda text: None,
    **settings: Any,
) -> tuple[CaptionedImages, CaptionedImages]:
    """Training and held-out images of a set that was looked at first.

    Args:
        source: as in ``open_dataset``.
        purpose: what they are for, and how many that can't be used to continue without.
        vocabulary: as in ``open_dataset``.
        show: takes the report for people.
        settings: of ``CaptionedImages``.

    Raises:
        DataError: if a run on it could not go through or could learn nothing.
    """
    report = check_data(source, purpose, vocabulary=vocabulary)
    if report.errors:
        raise DataError(report.refusal())
    show(report.brief())
    facts = report.facts
    caches: list[dict[str, int]] = [{}, {}]
    if (budget := settings.pop("cache_bytes", None)) is not None:
        aside = round(budget * len(facts.test) / (len(facts.train) + len(facts.test)))
        caches = [{"cache_bytes": budget - aside}, {"cache_bytes": aside}]
    train = _open(facts, "train", **settings, **caches[0])
    return train, _open(facts, "test", augment=False, **settings, **caches[1])


def _open(facts: Facts, split: str, **settings: Any) -> CaptionedImages:
    words, bad = facts.vocabulary, len(facts.bad)
    return open_split(facts.contents, split, vocabulary=words, without=facts.faults, skip_bad=bad, **settings)
