"""What a visitor asks for and gets, without a page."""

import math
import threading

import pytest
import torch

from dmgan_fast.sampling.sampler import Sampler
from dmgan_fast.web.models import Models
from dmgan_fast.web.studio import Limits, Refused, Studio
from tests.web.conftest import BROKEN, SMALL


@pytest.fixture
def sampler(weights):
    return Sampler.from_pretrained(weights, device="cpu")


def last(answer, number=0):
    return answer.images[number].sample.images[-1]


def test_the_images_are_those_of_the_sampler(studio, sampler):
    answer = studio.generate("a red apple", seed=3, images=2, truncation=0.7, noise=0.5)
    drawn = sampler.sample(["a red apple"], seed=3, count=2, truncation=0.7, noise_strength=0.5)
    assert [image.sample.copy for image in answer.images] == [1, 2]
    for image, wanted in zip(answer.images, drawn, strict=True):
        assert [tuple(image.shape) for image in image.sample.images] == [(3, 64, 64), (3, 128, 128)]
        assert all(map(torch.equal, image.sample.images, wanted.images))


def test_the_largest_truncation_is_none(studio, sampler):
    assert torch.equal(last(studio.generate("a car", truncation=3)), sampler.sample(["a car"])[0].images[-1])
    assert torch.equal(last(studio.generate("a car")), sampler.sample(["a car"])[0].images[-1])


def test_the_strip_is_the_way_of_the_sampler(studio, sampler):
    answer = studio.between("a red apple", "a blue car", steps=4, seed=2)
    way = sampler.between("a red apple", "a blue car", steps=4, seed=2)
    assert answer.captions == ("a red apple", "a blue car")
    assert all(torch.equal(last(answer, k), wanted.images[-1]) for k, wanted in enumerate(way))


def test_unknown_words_are_told_once(studio):
    assert studio.generate("a zebra, a red Zebra and a lion", images=2).unknown == ["zebra", "and", "lion"]
    assert studio.between("a zebra", "a red zebra", steps=3).unknown == ["zebra"]


def test_control_characters_and_lines_make_one_line(studio):
    answer = studio.generate("  a\x00 red\u202e\x1b[31m\r\n apple\ud800 ")
    assert "\x1b" not in answer.captions[0]
    assert "\n" not in answer.captions[0]
    assert answer.images[0].sample.words == ["a", "red", "apple"]


def test_the_first_model_is_taken_where_none_is_named(studio):
    assert studio.generate("a car").model == studio.generate("a car", model=SMALL).model == SMALL


@pytest.mark.parametrize(
    ("caption", "says"),
    [
        ("", "The caption is empty"),
        (" \n\t\x00", "The caption is empty"),
        (None, "The caption is empty"),
        ("zebra", "no word that this model knows"),
        ("🦓🦓", "no word that this model knows"),
        ("apple " * 50, "has 50 words; at most 40 are allowed"),
        ("apple-" * 50, "has 50 words; at most 40 are allowed"),
        ("red " * 5000, "has 20,000 characters; at most 400 are allowed"),
        (["a"], "must be text"),
        ({"path": "/etc/passwd"}, "must be text"),
        (3, "must be text"),
    ],
)
def test_a_caption_that_cannot_be_used_is_refused_in_plain_words(studio, caption, says):
    with pytest.raises(Refused, match=says):
        studio.generate(caption)
    with pytest.raises(Refused, match=says.replace("The caption", "The second caption")):
        studio.between("a car", caption)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"seed": -1}, r"The seed must be a whole number from 0 to 4294967295\."),
        ({"seed": 0.5}, "The seed must be a whole number"),
        ({"seed": 2**80}, "The seed must be a whole number"),
        ({"seed": None}, "The seed must be a whole number"),
        ({"seed": "1"}, "The seed must be a whole number"),
        ({"seed": True}, "The seed must be a whole number"),
        ({"images": 0}, r"The number of images must be a whole number from 1 to 4\."),
        ({"images": 5}, "The number of images must be"),
        ({"images": math.inf}, "The number of images must be"),
        ({"noise": math.nan}, r"The noise strength must be a number from 0 to 2\."),
        ({"noise": 2.5}, "The noise strength must be"),
        ({"noise": []}, "The noise strength must be"),
        ({"truncation": 0}, r"The truncation must be a number from 0\.1 to 3\."),
        ({"truncation": "x"}, "The truncation must be"),
        ({"model": "../../etc"}, "This model is not offered here"),
        ({"model": 7}, "This model is not offered here"),
        ({"model": [SMALL]}, "This model is not offered here"),
    ],
)
def test_settings_out_of_bounds_are_refused_in_plain_words(studio, options, says):
    with pytest.raises(Refused, match=says):
        studio.generate("a car", **options)


def test_a_strip_has_its_own_bounds(studio):
    for steps in (1, 13):
        with pytest.raises(Refused, match=r"The number of steps must be a whole number from 2 to 12\."):
            studio.between("a car", "a car", steps=steps)


def test_what_fails_inside_is_not_told_outside_but_logged(studio, caplog):
    with pytest.raises(Refused) as caught:
        studio.generate("a car", model=BROKEN)
    assert str(caught.value) == "This did not work, and not because of what you wrote. The server's log says why."
    assert caught.value.__suppress_context__
    assert "no weights in" in caplog.text


def test_running_out_of_memory_says_what_to_do():
    def fail():
        raise MemoryError

    with pytest.raises(Refused, match=r"ran out of memory\. Ask for fewer images or steps"):
        Studio(Models({"large": fail})).generate("a car")


def test_one_request_is_answered_at_a_time(weights):
    inside, most = [0], [0]

    class Counting(Sampler):
        def sample(self, *arguments, **options):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            try:
                return super().sample(*arguments, **options)
            finally:
                inside[0] -= 1

    studio = Studio(Models({SMALL: lambda: Counting.from_pretrained(weights, device="cpu")}), Limits())
    threads = [threading.Thread(target=studio.generate, args=("a car",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


def test_warming_up_loads_the_first_model_and_generates(weights):
    loaded = []

    def load():
        loaded.append(1)
        return Sampler.from_pretrained(weights, device="cpu")

    studio = Studio(Models({SMALL: load}))
    studio.warm_up()
    studio.generate("a car")
    assert loaded == [1]
