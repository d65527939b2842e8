"""Words, indices and the choice of words."""

import json

import pytest

from dmgan_fast.data import Vocabulary
from dmgan_fast.errors import DataError


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


@pytest.mark.parametrize("content", ["", "{", json.dumps({"a": 1}), "[]", "[1, 2]", '["a", "b", "a"]'])
def test_broken_vocabulary_file_is_named(tmp_path, content):
    (tmp_path / "v.json").write_text(content)
    with pytest.raises(DataError, match=r"v\.json"):
        Vocabulary.load(tmp_path / "v.json")
