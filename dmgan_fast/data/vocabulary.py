"""Words and their indices. Index 0 is padding, as in the authors' pickles (`<end>`).

An encoder knows its words by their indices only, so weights carry the fingerprint of the vocabulary they were trained
with.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from dmgan_fast.data.captions import tokenize
from dmgan_fast.errors import DataError
from dmgan_fast.files import load_json, require_regular, write_text
from dmgan_fast.foreign import what_is

END = "<end>"


@contextmanager
def words_of(file: str | os.PathLike[str]) -> Iterator[None]:
    """Within, refusals of a vocabulary name the file that it comes from."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{os.fspath(file)}: {error}") from None


class Vocabulary:
    """A fixed list of words; ``words[0]`` is padding.

    ``made_here``: numbered here from captions, so that nobody's published weights can have been trained with it.
    """

    def __init__(self, words: Iterable[str], *, made_here: bool = False) -> None:
        self.words = list(words)
        self.made_here = made_here
        self._index = {word: index for index, word in enumerate(self.words)}
        if len(self._index) != len(self.words):
            twice = next(word for word, count in Counter(self.words).items() if count > 1)
            raise DataError(f"vocabulary: the word {twice!r} has two indices")

    def __len__(self) -> int:
        return len(self.words)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.words == other.words

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the words in their order: equal for equal indices only."""
        return hashlib.sha256(json.dumps(self.words, ensure_ascii=True).encode()).hexdigest()

    @classmethod
    def from_captions(cls, captions: Iterable[str], min_count: int = 1) -> Vocabulary:
        """Words that occur ``min_count`` times or more, in alphabetical order."""
        counts = Counter(word for caption in captions for word in tokenize(caption))
        return cls([END, *sorted(word for word, count in counts.items() if count >= min_count)], made_here=True)

    @classmethod
    def from_official(cls, index_to_word: Mapping[int, str]) -> Vocabulary:
        """The authors' ``ixtoword``, indices kept.

        Raises:
            DataError: if the indices are not 0, 1, 2, ...
        """
        if set(index_to_word) != set(range(len(index_to_word))):
            raise DataError(f"vocabulary: indices must be 0..{len(index_to_word) - 1} without gaps")
        if not all(isinstance(word, str) for word in index_to_word.values()):
            raise DataError("vocabulary: every word must be text")
        return cls(index_to_word[index] for index in range(len(index_to_word)))

    def encode(self, text: str) -> tuple[list[int], list[str]]:
        """Indices of the known words, in order, and the words that are not known."""
        tokens = tokenize(text)
        return (
            [self._index[token] for token in tokens if token in self._index],
            [token for token in tokens if token not in self._index],
        )

    def knows(self, text: str) -> bool:
        """Whether ``text`` has a known word."""
        return any(token in self._index for token in tokenize(text))

    def decode(self, indices: Iterable[int]) -> list[str]:
        """Words of indices, padding left out."""
        return [self.words[index] for index in indices if index]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write JSON: the list of words."""
        write_text(path, json.dumps(self.words, ensure_ascii=False))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Vocabulary:
        """Read what ``save`` wrote.

        Raises:
            DataError: if the file is missing or not a list of words.
        """
        try:
            require_regular(path)
            words = load_json(Path(path))
        except OSError as error:
            raise DataError(f"vocabulary {path} can't be read: {error}") from None
        except ValueError as error:
            found = what_is(Path(path))
            raise DataError(f"vocabulary {path} can't be read: {f'it is {found}' if found else error}") from None
        if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
            raise DataError(f"vocabulary {path}: expected a JSON list of words")
        with words_of(path):
            return cls(words)
