"""Captions become words, and words become indices of a fixed number."""

import torch

from dmgan_fast.data.captions import choose_words, pad, tokenize


def test_tokens_are_lower_case_words_without_punctuation():
    assert tokenize("A Café,\r\nred-BLUE über 2!") == ["a", "café", "red", "blue", "über", "2"]
    assert tokenize("bro\ufffdken") == ["bro", "ken"]
    assert tokenize(" ... ") == []


def test_vowel_signs_and_accents_stay_in_their_words():
    assert tokenize("एक लाल पक्षी!") == ["एक", "लाल", "पक्षी"]
    assert tokenize("นกสีแดง") == ["นกสีแดง"]
    assert tokenize("cafe\u0301 ❤\ufe0f") == tokenize("café ❤\ufe0f") == ["café"]


def test_long_caption_keeps_a_seeded_subset_in_order():
    def chosen(seed):
        return choose_words(range(1, 41), 10, torch.Generator().manual_seed(seed))

    assert len(set(chosen(0))) == 10
    assert chosen(0) == sorted(chosen(0))
    assert chosen(0) == chosen(0)
    assert chosen(0) != chosen(1)
    assert any(max(chosen(seed)) > 30 for seed in range(5))
    assert choose_words([5, 3], 2, torch.Generator()) == [5, 3]


def test_padding_is_zero_and_int64():
    row = pad([4, 5], 5)
    assert row.tolist() == [4, 5, 0, 0, 0]
    assert row.dtype == torch.int64
