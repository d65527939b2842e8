"""The benchmark of others' code with the patch and without, on a stand-in for their trainer's step."""

from dataclasses import replace

import pytest
import torch

from benchmarks import patched
from benchmarks.models import tiny as tiny_setting
from dmgan_fast.compat import patch
from tests.compat import standins


class Step:
    """What ``benchmarks.patched`` uses of a checkout's step."""

    def __init__(self, fast):
        torch.manual_seed(0)
        self.generator = standins.DMGAN()
        self.discriminators, self.encoder = [standins.Judge()], standins.Encoder().eval().requires_grad_(False)
        if fast:
            patch([self.generator, *self.discriminators, self.encoder])

    def draw(self, batch, noise):
        return self.generator(noise, batch.sentence, batch.words, batch.padding_mask)

    def __call__(self, batch, *, noise, eps):
        images = self.draw(batch, noise)[0]
        logits = self.discriminators[0](images[0], batch.sentence)
        torch.stack([x.mean() for x in (*logits, self.encoder(images[-1])[0])]).sum().backward()


def tiny():
    setting = replace(tiny_setting(), batch=3)
    narrow = {"word_channels": standins.WORDS, "noise_channels": standins.NOISE}
    return setting.changed(generator=replace(setting.generator, **narrow))


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.setattr(patched, "build", lambda authors, setting, fast: Step(fast))


def test_rows_compare_the_same_code_with_the_line_and_without(stand_in, tmp_path):
    rows = patched.rows_of(tmp_path, 1, setting=tiny())
    assert [(r["op"], r["implementation"]) for r in rows] == [
        (f"{part} of others", name) for part in ("generator", "step") for name in (patched.PLAIN, patched.PATCHED)
    ]
    assert all(r["correct"] and r["median_ms"] > 0 for r in rows)
    peaks = [r["peak_bytes"] for r in rows]
    assert peaks[1] < 0.8 * peaks[0]
    assert peaks[3] < 0.8 * peaks[2]
    assert len(patched.rows_of(tmp_path, 1, ("step",), tiny())) == 2


def test_code_that_learns_something_else_is_marked(stand_in, monkeypatch, tmp_path):
    def wrong(authors, setting, fast):
        step = Step(fast)
        if fast:
            step.generator.heads[0].img[0].weight.data.mul_(1.01)
        return step

    monkeypatch.setattr(patched, "build", wrong)
    assert not any(row["correct"] for row in patched.rows_of(tmp_path, 1, ("generator",), tiny()))


def test_weights_are_the_same_however_a_model_was_built():
    steps = [Step(False), Step(False)]
    steps[1].generator.load_state_dict({k: v + 1 for k, v in steps[1].generator.state_dict().items()})
    for step in steps:
        patched.restart(step)
    for one, other in zip(steps[0].generator.parameters(), steps[1].generator.parameters(), strict=True):
        assert torch.equal(one, other)
