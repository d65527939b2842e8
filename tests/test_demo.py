"""The demo, from training to its page, and the weights that are shipped."""

import re

from dmgan_fast import demo
from dmgan_fast.sampling.sampler import Sampler
from tests.cli.calls import call


def test_demo_trains_draws_and_reports(monkeypatch, capsys, tmp_path):
    arguments = ("demo", "--out", tmp_path / "demo", "--pretrain-steps", 1, "--train-steps", 1)
    monkeypatch.setattr(demo, "WORTH_TIMING", 2)  # so that it says first how long it will take
    status, out, err = call(monkeypatch, capsys, *arguments)
    assert status == 0
    said = re.sub(r"\s+", " ", err)
    assert re.match(r"this will take about [\d.]+ (s|min) here: 1 steps of the encoders at [\d.]+ s and 1 steps", said)
    assert re.search(r"encoders [\d.]+ (s|min), GAN [\d.]+ (s|min), generating and page [\d.]+ (s|min)", said)
    page = (tmp_path / "demo" / "index.html").read_text()
    assert str(tmp_path / "demo" / "index.html") in out
    for promised in ("Just trained", "Words and gates", "response gate", "Real images", "1 steps in", "<svg"):
        assert promised in page
    assert page.count("<figure>") >= 16
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page.split("<svg")[0])  # nothing from elsewhere
    again, _, err = call(monkeypatch, capsys, *arguments)  # finished runs are only reported again
    assert again == 0
    assert "steps/s" not in err
    assert "this will take" not in err


def test_the_demo_takes_what_its_steps_do_and_a_tenth_more():
    assert demo.forecast((0, 200), (0.0, 0.9)).startswith("this will take about 3.3 min here: 200 steps of the GAN at")
    text = demo.forecast((300, 200), (0.2, 0.9))
    assert text.startswith("this will take about 4.4 min here: 300 steps of the encoders at 0.20 s and 200 steps")


def test_the_shipped_weights_draw_the_colours_they_are_asked_for():
    red, blue = Sampler.from_pretrained().sample(["a red heart", "a blue car"], seed=3)
    assert [tuple(image.shape) for image in red.images] == [(3, 64, 64), (3, 128, 128)]
    assert not (red.unknown)
    assert not (blue.unknown)
    middle = slice(48, 80)
    assert red.images[-1][0, middle, middle].mean() > red.images[-1][2, middle, middle].mean() + 0.3
    assert blue.images[-1][2, middle, middle].mean() > blue.images[-1][0, middle, middle].mean() + 0.1
