"""Captions as word indices: tokens, a seeded choice of words from long captions, padding."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import torch
from torch import Tensor

PADDING = 0


# Vowel signs and accents that stand on their own belong to the word they are in; \w leaves them out.
_MARKS = "".join(chr(code) for code in range(0x300, 0xFE00) if unicodedata.category(chr(code)) in ("Mn", "Mc"))
_WORD = re.compile(rf"\w[\w{_MARKS}]*")


def tokenize(text: str) -> list[str]:
    """Lower-case words and numbers, in order; letters of every script are kept, punctuation is dropped."""
    return _WORD.findall(unicodedata.normalize("NFC", text.replace("\ufffd", " ")).lower())


def choose_words(indices: Sequence[int], max_words: int, generator: torch.Generator) -> list[int]:
    """All words of a short caption; of a longer one a random subset of ``max_words``, order kept."""
    if len(indices) <= max_words:
        return list(indices)
    chosen = torch.randperm(len(indices), generator=generator)[:max_words].sort().values
    return [indices[k] for k in chosen.tolist()]


def pad(indices: Sequence[int], words: int) -> Tensor:
    """``[T]`` int64, zero beyond the caption."""
    row = torch.full((words,), PADDING, dtype=torch.int64)
    row[: len(indices)] = torch.tensor(indices, dtype=torch.int64)
    return row
