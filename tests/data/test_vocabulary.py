"""Words, indices and the choice of words."""

import json

import pytest
import torch

from dmgan_fast.data import Vocabulary
from dmgan_fast.data.captions import choose_words, pad, tokenize
from dmgan_fast.errors import DataError


def test_tokens_are_lower_case_words_without_punctuation():
    assert tokenize("A Café,\r\nred-BLUE über 2!") == ["a", "café", "red", "blue", "über", "2"]
    assert tokenize("bro\ufffdken") == ["bro", "ken"]
    assert tokenize(" ... ") == []


def test_vowel_signs_and_accents_stay_in_their_words():
    assert tokenize("एक लाल पक्षी!") == ["एक", "लाल", "पक्षी"]
    assert tokenize("นกสีแดง") == ["นกสีแดง"]
    assert tokenize("cafe\u0301 ❤\ufe0f") == tokenize("café ❤\ufe0f") == ["café"]


def test_index_zero_is_padding_and_known_words_round_trip():
    vocabulary = Vocabulary.from_captions(["a red bird", "a bird"])
    assert vocabulary.words == ["<end>", "a", "bird", "red"]
    indices, unknown = vocabulary.encode("A green bird, red")
    assert indices == [1, 2, 3]
    assert unknown == ["green"]
    assert vocabulary.decode([*indices, 0, 0]) == ["a", "bird", "red"]


def test_rare_words_are_left_out():
    assert Vocabulary.from_captions(["a red bird", "a bird"], min_count=2).words == ["<end>", "a", "bird"]


def test_official_indices_are_kept():
    vocabulary = Vocabulary.from_official({2: "bird", 0: "<end>", 1: "zebra"})
    assert vocabulary.encode("bird zebra") == ([2, 1], [])


@pytest.mark.parametrize("broken", [{1: "a", 2: "b"}, {0: "<end>", 1: "a", 2: "a"}, {0: "<end>", "1": "a"}, {0: 5}])
def test_broken_official_vocabulary_is_refused(broken):
    with pytest.raises(DataError, match="vocabulary"):
        Vocabulary.from_official(broken)


def test_vocabulary_survives_saving(tmp_path):
    vocabulary = Vocabulary.from_captions(["a café"])
    vocabulary.save(tmp_path / "v.json")
    assert Vocabulary.load(tmp_path / "v.json") == vocabulary


@pytest.mark.parametrize("content", ["", "{", json.dumps({"a": 1}), "[]", "[1, 2]"])
def test_broken_vocabulary_file_is_named(tmp_path, content):
    (tmp_path / "v.json").write_text(content)
    with pytest.raises(DataError, match=r"v\.json"):
        Vocabulary.load(tmp_path / "v.json")


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
