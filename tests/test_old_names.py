"""Names of earlier versions go on working and say what they are called now."""

import json
import warnings

import pytest

from dmgan_fast import data, modules, sampling
from dmgan_fast.config import load_config, to_dict
from dmgan_fast.evaluation import EvaluationConfig
from dmgan_fast.modules import ImageEncoderConfig
from dmgan_fast.runs.config import LoopConfig, PretrainConfig
from dmgan_fast.runs.presets import build_config
from dmgan_fast.training.resuming import changes
from tests.cli.calls import call


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        (data, "CaptionedPictures", "CaptionedImages"),
        (data, "PictureBatch", "ImageBatch"),
        (data, "PictureItem", "ImageItem"),
        (modules, "draw_in_tiles", "generate_in_tiles"),
        (sampling, "Drawing", "Sample"),
    ],
)
def test_an_old_name_is_the_new_thing_and_says_its_name(module, old, new):
    with pytest.warns(FutureWarning, match=f"{module.__name__}.{old} is called {new} now") as told:
        assert getattr(module, old) is getattr(module, new)
    assert told[0].filename == __file__


def test_what_has_no_name_has_none_and_new_names_say_nothing():
    with pytest.raises(AttributeError, match=r"module 'dmgan_fast\.data' has no attribute 'Pictures'"):
        data.Pictures  # noqa: B018
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all((data.CaptionedImages, sampling.Sample, modules.generate_in_tiles))


def test_draw_samples_and_says_so(monkeypatch):
    monkeypatch.setattr(sampling.Sampler, "sample", lambda self, captions, **options: (captions, options))
    with pytest.warns(FutureWarning, match=r"Sampler\.draw is called Sampler\.sample now") as told:
        assert object.__new__(sampling.Sampler).draw(["a"], seed=2) == (["a"], {"seed": 2})
    assert told[0].filename == __file__


@pytest.mark.parametrize(
    ("kind", "old", "new", "value"),
    [
        (ImageEncoderConfig, "side", "image_size", 64),
        (LoopConfig, "measure_pictures", "measure_images", 7),
        (EvaluationConfig, "pictures", "images", "folder"),
        (EvaluationConfig, "save_pictures", "save_images", True),
    ],
)
def test_settings_are_taken_by_their_old_names_and_saved_by_their_new_ones(kind, old, new, value):
    for made in (load_config(kind, {old: value}), kind(**{old: value}), kind(**{new: value})):
        assert getattr(made, new) == value
        assert to_dict(made)[new] == value
        assert old not in to_dict(made)


def test_a_file_of_an_earlier_version_goes_over_a_preset(tmp_path):
    (tmp_path / "old.yaml").write_text("image_encoder: {side: 32}\nloop: {measure_pictures: 9}\n")
    made = build_config(PretrainConfig, preset="demo", file=tmp_path / "old.yaml")
    assert (made.image_encoder.image_size, made.loop.measure_images) == (32, 9)
    again = build_config(PretrainConfig, preset="demo", overrides=["image_encoder.side=48", "loop.measure_pictures=8"])
    assert (again.image_encoder.image_size, again.loop.measure_images) == (48, 8)


def test_a_run_of_an_earlier_version_differs_only_where_it_does():
    now = to_dict(build_config(PretrainConfig, preset="demo"))
    saved = json.loads(json.dumps(now))
    saved["image_encoder"]["side"] = saved["image_encoder"].pop("image_size")
    assert changes(saved, now) == []
    saved["image_encoder"]["side"] = 32
    assert [str(change).split(" was ")[0] for change in changes(saved, now)] == ["image_encoder.image_size"]


def test_options_of_evaluate_are_taken_by_their_old_names_too(monkeypatch, capsys):
    given = ("evaluate", "--out", "o", "--data", "demo", "--save-pictures", "--pictures=nowhere")
    status, _, errors = call(monkeypatch, capsys, *given)
    said = errors.splitlines()
    assert status == 2
    assert said[0] == "--save-pictures is called --save-images now"
    assert said[1] == "--pictures is called --images now"
    assert "no images at 'nowhere'" in said[-1]
