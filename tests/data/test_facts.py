"""Words of captions, counted before the first step."""

import pytest

from dmgan_fast.data import Purpose, Vocabulary, check_data
from tests.data.shapes import found, shapes


@pytest.mark.parametrize(
    "said",
    [
        lambda k: f"一只红色的鸟站在树枝上{k}",
        lambda k: f"赤い鳥が枝に止まっている{k}",
        lambda k: f"a_red_bird_on_branch_{k}",
        lambda k: f"นกสีแดงเกาะอยู่บนกิ่งไม{k}",
    ],
    ids=["Chinese", "Japanese", "underscores", "Thai"],
)
def test_captions_whose_words_nothing_divides_are_refused_with_the_cause_first(tmp_path, said):
    report = check_data(shapes(tmp_path, captions=lambda k: [said(k)]), Purpose(image_size=8))
    assert report.errors[0].kind == "words not divided"
    assert "put spaces between the words" in report.refusal()


@pytest.mark.parametrize("said", ["一只 红色 的 鸟 {}", "un oiseau rouge {}", "red{}", "Donaudampfschiff {}"])
def test_captions_whose_words_are_divided_are_not(tmp_path, said):
    shapes(tmp_path, captions=lambda k: [said.format(k), said.format(0)])
    assert "words not divided" not in found(tmp_path)


def test_captions_without_a_known_word_are_counted_and_images_without_any_named(tmp_path):
    shapes(tmp_path, captions=lambda k: ["...", f"shape {k}"] if k == 3 else ["?!"] if k == 5 else [f"shape {k}"])
    kinds = found(tmp_path)
    assert "05.png has no caption with a known word" in kinds["no known word"].text
    assert kinds["captions without a known word"].names == ("03.png",)


def test_words_that_given_encoders_do_not_know_are_shown(tmp_path):
    shapes(tmp_path, captions=lambda k: [f"shape number {k}", "the shape"])
    assert not found(tmp_path, vocabulary=Vocabulary.from_captions(["the shape number", *map(str, range(12))]))
    some = found(tmp_path, "warning", vocabulary=Vocabulary.from_captions(["the shape", *map(str, range(12))]))
    assert some["unknown words"].text.startswith("20% of the words are unknown to the encoders")
    assert "most often number;" in some["unknown words"].text
    report = check_data(tmp_path, vocabulary=Vocabulary.from_captions(["zebra"]))
    assert report.errors[0].text.startswith("100% of the words are unknown to the encoders")
