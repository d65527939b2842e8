"""Configurations from presets, files and settings; later ones win."""

import pytest

from dmgan_fast.errors import InputError
from dmgan_fast.runs.config import PretrainConfig, TrainConfig
from dmgan_fast.runs.presets import build_config


def test_presets_have_the_papers_numbers():
    birds, coco = build_config(TrainConfig), build_config(TrainConfig, preset="coco")
    assert (birds.data.max_words, birds.loop.batch_size, birds.step.damsm_weight) == (18, 10, 5.0)
    assert (coco.data.max_words, coco.loop.batch_size, coco.step.damsm_weight) == (12, 16, 50.0)
    assert (birds.generator.residual_blocks, coco.generator.residual_blocks) == (2, 3)
    assert birds.generator.image_sizes == (64, 128, 256)
    damsm = build_config(PretrainConfig)
    assert (damsm.loop.batch_size, damsm.learning_rate, damsm.learning_rate_decay, damsm.clip) == (
        48,
        0.002,
        0.98,
        0.25,
    )


def test_later_settings_win(tmp_path):
    (tmp_path / "c.yaml").write_text("loop:\n  steps: 7\n  seed: 3\n")
    config = build_config(
        TrainConfig, file=tmp_path / "c.yaml", overrides=["loop.steps=9"], values={"loop": {"seed": 5}}
    )
    assert (config.loop.steps, config.loop.seed, config.loop.batch_size) == (9, 5, 10)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loop.stps=3", "unknown key 'loop.stps'; did you mean 'steps'"),
        ("genrator.base_channels=3", "unknown key 'genrator'; did you mean 'generator'"),
        ("generator.base_chanels=3", "did you mean 'base_channels'"),
        ("loop.steps=many", "loop.steps: .*got 'many'"),
        ("loop.batch_size=1", "loop.batch_size: .*got 1"),
        ("generator.image_sizes=[64, 100]", "image_sizes must start at 64 and double"),
        ("loop.steps", "a setting is written key=value, got 'loop.steps'"),
        ("step.damsm_weight=-1", "damsm_weight must be 0 or more, got -1"),
    ],
)
def test_config_errors_name_the_key(override, message):
    with pytest.raises(InputError, match=message):
        build_config(TrainConfig, overrides=[override])


@pytest.mark.parametrize(
    ("content", "message"), [(None, "can't be read"), ("- 1", "expected keys"), ("a: [", "can't be")]
)
def test_broken_config_files_are_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(InputError, match=message):
        build_config(TrainConfig, file=tmp_path / "c.yaml")


LARGE = "a0: &a0 [x, x, x, x]\n" + "".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 4)}]\n" for k in range(1, 20))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LARGE.encode(), "it has more than 10,000 values"),
        (b"a: &a [*a]\n", "it has more than 10,000 values"),
        (b"[" * 5000, "it is nested too deeply"),
        (b"loop: 2001-99-99", r"month must be in 1\.\.12"),
        (b"loop: \xff", r"not UTF-8 text \(byte 6\)"),
    ],
)
def test_settings_that_explode_or_are_none_are_one_readable_line(tmp_path, content, message):
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(InputError, match=rf"c\.yaml can't be read: .*{message}"):
        build_config(TrainConfig, file=tmp_path / "c.yaml")
