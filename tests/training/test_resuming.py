"""A run goes on after data or encoders moved and with other rates; what can't change is refused by name and value."""

import json
import logging
import shutil
from dataclasses import replace

import pytest
import torch

from dmgan_fast.errors import CheckpointError
from dmgan_fast.runs.checkpoints import checkpoint_file, latest_checkpoint, load_checkpoint
from dmgan_fast.runs.config import TrainConfig
from dmgan_fast.training.engine import finish
from dmgan_fast.training.resuming import FREE, RATES, changes
from dmgan_fast.training.trainer import train
from tests.cli.calls import call
from tests.training.conftest import train_config
from tests.training.resumed import state
from tests.training.test_engine import same


def test_rates_may_change_and_the_optimisers_take_them(begun, caplog):
    base = train_config(begun / "data", begun / "damsm", steps=3)
    lower = replace(base, step=replace(base.step, generator_learning_rate=1e-5, discriminator_learning_rate=3e-5))
    with caplog.at_level(logging.INFO, "dmgan_fast"):
        train(lower, begun / "run", resume=True)
    assert "step.generator_learning_rate was 0.0002, now 1e-05" in caplog.text
    task = state(begun / "run")["task"]["train_step"]
    assert task["generator_optimizer"]["param_groups"][0]["lr"] == 1e-5
    assert {group["param_groups"][0]["lr"] for group in task["discriminator_optimizers"]} == {3e-5}
    assert task["generator_optimizer"]["state"][0]["step"] == 3  # what the optimiser knows is kept
    train(replace(base, loop=replace(base.loop, steps=4)), begun / "run", resume=True)
    assert state(begun / "run")["task"]["train_step"]["generator_optimizer"]["param_groups"][0]["lr"] == 2e-4


def test_a_lower_rate_moves_the_weights_less(begun):
    before = state(begun / "run")["task"]["train_step"]["generator"]
    base = train_config(begun / "data", begun / "damsm", steps=3)
    still = replace(base, step=replace(base.step, generator_learning_rate=1e-12, discriminator_learning_rate=1e-12))
    train(still, begun / "run", resume=True)
    after = state(begun / "run")["task"]["train_step"]["generator"]
    torch.testing.assert_close(after["conditioning.projection.weight"], before["conditioning.projection.weight"])


@pytest.mark.parametrize(("size", "place"), [(2, (0, 3)), (4, (1, 0)), (8, (1, 0))])
def test_another_batch_goes_on_at_the_same_pictures_with_a_warning(begun, caplog, size, place):
    """8 pictures in batches of 3: two steps are an epoch, six pictures of it seen after two."""
    train(train_config(begun / "data", begun / "damsm", steps=2), begun / "again")
    first = state(begun / "again")
    assert (first["epoch"], first["batches"]) == (0, 2)
    seen = []
    from dmgan_fast.training import engine

    original = engine.make_loader

    def watch(dataset, batch_size, **options):
        seen.append((options.get("epoch"), options.get("start_batch")))
        return original(dataset, batch_size, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "make_loader", watch)
        train(train_config(begun / "data", begun / "damsm", steps=3, batch_size=size), begun / "run", resume=True)
    assert f"loop.batch_size was 3, now {size}" in caplog.text
    assert place in seen


def test_length_reporting_and_workers_change_without_a_word(begun, caplog):
    config = train_config(begun / "data", begun / "damsm", steps=3, log_every=2, sample_every=7, measure_every=0)
    config = replace(config, data=replace(config.data, workers=1, skip_bad=3))
    with caplog.at_level(logging.INFO, "dmgan_fast.runs"):
        train(config, begun / "run", resume=True)
    assert [record for record in caplog.records if record.name == "dmgan_fast.runs"] == []


def changed(config, name, value):
    section, _, key = name.partition(".")
    return replace(config, **{section: replace(getattr(config, section), **{key: value}) if key else value})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("generator.base_channels", 3, r"generator\.base_channels was 2, now 3"),
        ("step.gamma1", 2.5, r"step\.gamma1 was 4\.0, now 2\.5"),
        ("data.max_words", 3, r"data\.max_words was 4, now 3"),
        ("spectral_norm", "official", r"spectral_norm was paper, now official"),
        ("loop.seed", 9, r"loop\.seed was 0, now 9"),
    ],
)
def test_what_can_not_change_is_refused_with_both_values_before_models_are_made(
    begun, monkeypatch, name, value, message
):
    config = changed(train_config(begun / "data", begun / "damsm", steps=3), name, value)
    before = latest_checkpoint(begun / "run" / "checkpoints").read_bytes()
    monkeypatch.setattr("dmgan_fast.training.trainer.Generator", None)
    with pytest.raises(CheckpointError, match=message):
        train(config, begun / "run", resume=True)
    assert latest_checkpoint(begun / "run" / "checkpoints").read_bytes() == before


def test_a_checkpoint_of_an_older_version_resumes_in_place_and_says_what_it_can_not_compare(begun):
    file = checkpoint_file(begun / "run" / "checkpoints", 2)
    old = load_checkpoint(file, "gan")
    for name in ("fingerprints", "vocabulary_fingerprint", "epoch", "batches"):
        del old[name]
    for name in ("measure_every", "measure_images", "best_by"):
        del old["config"]["loop"][name]
    torch.save(old, file)
    (file.parent / "manifest.json").unlink()
    shutil.copytree(begun / "data", begun / "copy")
    with pytest.raises(CheckpointError, match=r"can't be compared: put them at .*data again \(a link will do\)"):
        train(train_config(begun / "copy", begun / "damsm", steps=3), begun / "run", resume=True)
    train(train_config(begun / "data", begun / "damsm", steps=3), begun / "whole")
    train(train_config(begun / "data", begun / "damsm", steps=3), begun / "run", resume=True)
    same(state(begun / "whole")["task"], state(begun / "run")["task"])


def test_a_smaller_model_that_moved_away_does_not_hinder_resuming(begun, caplog):
    base = train_config(begun / "data", begun / "damsm", steps=1)
    train(replace(base, init_from=str(begun / "run")), begun / "grown")
    shutil.rmtree(begun / "run")
    longer = replace(base, init_from=str(begun / "run"), loop=replace(base.loop, steps=2))
    train(longer, begun / "grown", resume=True)
    train(replace(longer, init_from=None, loop=replace(base.loop, steps=3)), begun / "grown", resume=True)
    assert state(begun / "grown")["step"] == 3


def test_experiments_do_not_go_on_with_other_rates(begun):
    """Resuming may change rates; runs that are compared with each other may not."""
    base = train_config(begun / "data", begun / "damsm", steps=2)
    other = replace(base, step=replace(base.step, generator_learning_rate=1e-5))
    for config in (other, replace(other, loop=replace(base.loop, steps=3))):
        with pytest.raises(CheckpointError, match=r"these differ: step\.generator_learning_rate"):
            finish(train, config, begun / "run")
    finish(train, base, begun / "run")
    assert state(begun / "run")["step"] == 2


def test_the_names_of_settings_that_may_change_are_those_of_the_configuration():
    known = TrainConfig(encoders="x")
    from dmgan_fast.config import to_dict
    from dmgan_fast.runs.config import PretrainConfig

    names = {"kind"}
    for config in (known, PretrainConfig()):
        for section, value in to_dict(config).items():
            names |= {f"{section}.{key}" for key in value} if isinstance(value, dict) else {section}
    assert sorted((FREE | RATES) - names) == []
    assert changes({"loop": {"seed": 1, "gone": 2}}, {"loop": {"seed": 2}}) == [("loop.seed", 1, 2)]


def test_the_command_line_shows_what_was_found_and_what_changed(begun, monkeypatch, capsys):
    shutil.move(begun / "data", begun / "moved")
    config = begun / "run" / "config.json"
    values = json.loads(config.read_text())
    del values["kind"]
    values["loop"]["steps"] = 3
    import yaml

    (begun / "c.yaml").write_text(yaml.safe_dump(values))
    arguments = ("train", "--config", begun / "c.yaml", "--data", begun / "moved", "--out", begun / "run", "--resume")
    status, _, errors = call(monkeypatch, capsys, *arguments, "--set", "step.generator_learning_rate=0.0001")
    assert status == 0, errors
    assert f"dmgan-fast: resuming: data found by content: data.source was {begun / 'data'}" in errors
    assert "dmgan-fast: resuming: step.generator_learning_rate was 0.0002, now 0.0001" in errors


@pytest.mark.parametrize("content", ["{", "[]", "3", 100_000 * "["])
def test_a_damaged_config_of_a_run_is_named(begun, content):
    (begun / "run" / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"run/config\.json can't be read"):
        finish(train, train_config(begun / "data", begun / "damsm", steps=2), begun / "run")
