"""What is wrong with a data set, or teaches little: each judgement in a function of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dmgan_fast.data.facts import Facts, Purpose
from dmgan_fast.data.names import IMAGE_SUFFIXES, files_below
from dmgan_fast.data.opening import EXPLAINED, by_kind, empty, explained, splits_found
from dmgan_fast.data.rows import NO_IMAGE, Row
from dmgan_fast.data.splits import nearest, role_of
from dmgan_fast.data.texts import printable

ERROR, WARNING, NOTE = "error", "warning", "note"
MUCH = 0.5  # share of captions from which little is taught
ALIKE = 0.4  # share of pairs of images in one class from which little is taught: two classes
SOME = 0.1
NEARLY_ALL = 0.9
UNKNOWN = 0.05  # share of unknown words that is worth a word


@dataclass(frozen=True)
class Finding:
    """``level``: an error stops a run. ``text``: a sentence with the cause and, if there is one, the remedy."""

    kind: str
    level: str
    text: str
    names: tuple[str, ...] = ()
    told: int = 0  # so many names, and no more, are in the text already


Judgement = Callable[[Facts, Purpose], Iterator[Finding]]


def judge(facts: Facts, purpose: Purpose) -> list[Finding]:
    """All findings, errors first."""
    found = [finding for judgement in JUDGEMENTS for finding in judgement(facts, purpose)]
    return sorted(found, key=lambda finding: (ERROR, WARNING, NOTE).index(finding.level))


def _unseparated(facts: Facts, purpose: Purpose) -> Iterator[Finding]:
    texts, found, different, example = facts.unseparated
    if not found:
        return
    useless = found > MUCH * texts and different > MUCH * found and found > 1
    text = (
        f"the words of {_of(found, texts, 'training caption')} are not divided and read as one, as in "
        f"{printable(example)[:60]!r}: put spaces between the words (a segmenter such as jieba does it for Chinese)"
    )
    yield Finding("words not divided", ERROR if useless else WARNING, text)


def _unusable(facts: Facts, purpose: Purpose) -> Iterator[Finding]:
    stops = len(facts.bad) > purpose.skip_bad
    for kind, same in by_kind(facts.bad).items():
        yield Finding(kind, ERROR if stops else WARNING, explained(same), tuple(item.name for item in same), EXPLAINED)
    if stops:
        allowed = f"; --skip-bad {purpose.skip_bad} allows fewer" if purpose.skip_bad else ""
        text = (
            f"{_of(len(facts.bad), facts.rows, 'image')} can't be used{allowed}: repair or remove them, or continue "
            f"without them with --skip-bad {len(facts.bad)}"
        )
        yield Finding("can't be used", ERROR, text)


def _empty_parts(facts: Facts, purpose: Purpose) -> Iterator[Finding]:
    for split, rows in (("train", facts.train), ("test", facts.test)):
        if not facts.contents.part(split):
            yield Finding("no images in a split", ERROR, empty(facts.contents, split))
        elif not rows:
            yield Finding("no images in a split", ERROR, f"no image of the {split} split can be used")
    if len(facts.train) == 1:
        text = "there is only one training image, and nothing to tell it from: the losses are 0; give more images"
        yield Finding("one image", ERROR if purpose.matches else WARNING, text)


def _splits(facts: Facts, purpose: Purpose) -> Iterator[Finding]:
    names = facts.contents.split_names()
    for name, count in Counter(row.split for row in facts.contents.part(None)).items():
        meant = nearest(name)
        why = f"; is {meant!r} meant?" if meant else ""
        why = ", since there is a test split" if role_of(name) else why
        text = (
            f"{_of(count, len(facts.contents.rows), 'image')} {_are(count)} in split {name!r}, which is neither for "
            f"training nor held out{why} (splits found: {splits_found(facts.contents)})"
        )
        rows = (row.record.key for row in facts.contents.part(None) if row.split == name)
        yield Finding("in no split", WARNING, text, tuple(rows))
    if "" in names and len(names) > 1:
        text = (
            f"{_of(names[''], len(facts.contents.rows), 'image')} without a split while others have one; about one in "
            f"ten of them is held out (splits found: {splits_found(facts.contents)})"
        )
        rows = (row.record.key for row in facts.contents.rows if not row.split)
        yield Finding("some without a split", WARNING, text, tuple(rows))


def _classes(facts: Facts, purpose: Purpose) -> Iterator[Finding]:
    train, share = facts.train, facts.same_class_share(facts.train)
    if len(train) > 1 and share == 1:
        text = (
            f"all {len(train)} training images are in class {train[0].record.class_id}, and images of one class are "
            "not told apart: both DAMSM losses would be 0 on every step and teach nothing. Leave the class out "
            "(class_id, or class_info.pickle in AttnGAN's layout), and each image is a class of its own"
        )
        yield Finding("one class for all", ERROR if purpose.matches else WARNING, text)
    elif share >= ALIKE:
        text = (
            f"{share:.0%} of the pairs of training images are of one class and not told apart, so the DAMSM losses "
            "teach little; finer classes, or none (then each image is its own), teach more"
        )
        yield Finding("few classes", WARNING, text)
    if len(facts.test) > 1 and facts.same_class_share(facts.test) == 1:
        text = f"all {len(facts.test)} held-out images are of one class, so R-precision can't be measured"
        yield Finding("one class held out", WARNING, text)
    without = [row for row in facts.contents.rows if row.own_class]
    if 0 < len(without) < len(facts.contents.rows):
        some = _of(len(without), len(facts.contents.rows), "image")
        text = f"{some} without a class while others have one; each is its own"
        yield Finding("some without a class", WARNING, text, _keys(without))
    elif not without:
        sizes = Counter(row.record.class_id for row in train)
        single = [row for row in train if sizes[row.record.class_id] == 1]
        if 0 < len(single) < len(train):
            text = f"{_of(len(single), len(sizes), 'class')} of the training images with only one image"
            yield Finding("classes of one", NOTE, text, _keys(single))


def _captions(facts: Facts, purpose: Purpose) -> Iterator[Finding]:
    train = facts.train
    if len(train) > 1 and len({facts.words.said[id(row)] for row in train}) == 1:
        text = (
            f"all {len(train)} training images have the same captions (the first: {train[0].record.captions[0]!r}): "
            "nothing tells which image they mean; give each image its own"
        )
        yield Finding("one caption for all", ERROR if purpose.matches else WARNING, text)
    elif (share := facts.same_words_share(train)) >= SOME:
        text = (
            f"{share:.0%} of the pairs of training images have the same captions, but are told apart, which can't be "
            "learned: give such images one class (class_id), or captions of their own"
        )
        yield Finding("same captions", WARNING, text)
    if dumb := facts.words.dumb:
        text = (
            f"{_many(len(dumb), 'caption')} without a known word, never chosen, as {dumb[0][1]!r} of "
            f"{dumb[0][0].record.key}"
        )
        yield Finding(
            "captions without a known word", WARNING, text, tuple(dict.fromkeys(r.record.key for r, _ in dumb))
        )


def _words(facts: Facts, purpose: Purpose) -> Iterator[Finding]:
    if garbled := facts.words.garbled:
        text = (
            f"{_many(len(garbled), 'image')} with captions in which letters could not be read, which cuts their words: "
            "save the texts as UTF-8"
        )
        yield Finding("garbled captions", WARNING, text, _keys(garbled))
    share = facts.words.unknown_share
    if facts.encoders_given and share >= UNKNOWN:
        often = ", ".join(word for word, _ in facts.words.unknown.most_common(10))
        text = (
            f"{share:.0%} of the words are unknown to the encoders and left out, most often {often}; "
            "encoders that know them come from `dmgan-fast pretrain` on this set"
        )
        yield Finding("unknown words", ERROR if share >= NEARLY_ALL else WARNING, text)


def _same_images(facts: Facts, purpose: Purpose) -> Iterator[Finding]:
    groups, train = facts.same_images, facts.train
    if len(train) > 1 and len({found.digest for _, found in facts.looks_of(train)}) == 1:
        text = f"all {len(train)} training images are the same image, so there is nothing to learn"
        yield Finding("one image", ERROR, text)
        return
    held_out = {id(row) for row in facts.test}
    both = [rows for rows in groups if 0 < sum(id(row) in held_out for row in rows) < len(rows)]
    if both:
        text = f"{_many(len(both), 'image')} both for training and held out, which flatters what is measured"
        yield Finding("in both splits", WARNING, text, _groups(both))
    inside = [rows for rows in groups if rows not in both]
    if inside:
        text = f"{_many(len(inside), 'image')} there more than once in one part"
        yield Finding("duplicates", WARNING, text, _groups(inside))


def _small(facts: Facts, purpose: Purpose) -> Iterator[Finding]:
    looks = facts.looks_of([*facts.train, *facts.test])
    small = [(row, found.side) for row, found in looks if found.side < purpose.image_size]
    if small:
        least = min(side for _, side in small)
        text = (
            f"{_of(len(small), len(looks), 'image')} with fewer than {purpose.image_size} pixels on the shorter side "
            f"(the smallest: {least}): enlarged, so they teach no detail"
        )
        yield Finding("small images", WARNING, text, _keys([row for row, _ in small]))


def _batch(facts: Facts, purpose: Purpose) -> Iterator[Finding]:
    size, count = purpose.batch_size, len(facts.train)
    if size is not None and 1 < count < size:
        text = f"a batch is of {size} images, but only {count} are for training: --set loop.batch_size={count} or less"
        yield Finding("batch larger than the set", ERROR, text)


def _unlisted(facts: Facts, purpose: Purpose) -> Iterator[Finding]:
    folder = Path(facts.contents.source)
    if facts.contents.embedded or not folder.is_dir() or any(row.record.member for row in facts.contents.rows[:1]):
        return
    used = {str(row.record.file) for row in facts.contents.rows}
    others = tuple(name for name in files_below(folder, IMAGE_SUFFIXES) if str(folder / name) not in used)
    if others:
        yield Finding(
            "not listed", NOTE, f"{_many(len(others), 'image file')} in the folder of which no row speaks", others
        )


def _lost(facts: Facts, purpose: Purpose) -> Iterator[Finding]:
    stray = [item for item in facts.left_out if item.kind == NO_IMAGE]
    if stray:
        text = f"{_many(len(stray), 'text')} without an image, left out"
        yield Finding(NO_IMAGE, WARNING, text, tuple(item.name for item in stray))
    for note in facts.contents.notes:
        yield Finding("note", NOTE, note)


JUDGEMENTS: tuple[Judgement, ...] = (
    _unseparated,
    _words,
    _unusable,
    _empty_parts,
    _classes,
    _captions,
    _batch,
    _splits,
    _same_images,
    _small,
    _unlisted,
    _lost,
)


def _keys(rows: Sequence[Row]) -> tuple[str, ...]:
    return tuple(row.record.key for row in rows)


def _groups(groups: Sequence[Sequence[Row]]) -> tuple[str, ...]:
    return tuple(" = ".join(row.record.key for row in rows) for rows in groups)


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 'es' if what.endswith('s') else 's'}"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _of(count: int, all_of: int, what: str) -> str:
    return f"{count:,} of {_many(all_of, what)}"
