"""A run may start from a smaller model; runs may be planned into a budget."""

import logging
from dataclasses import replace

import pytest
import torch
import yaml

from dmgan_fast.config import to_dict
from dmgan_fast.errors import CheckpointError, InputError
from dmgan_fast.modules import Discriminator, Generator
from dmgan_fast.runs.checkpoints import latest_checkpoint, load_checkpoint
from dmgan_fast.runs.config import TrainConfig
from dmgan_fast.runs.policy import MemoryPolicy
from dmgan_fast.sampling.bundle import save_bundle
from dmgan_fast.training.planning.planner import fit
from dmgan_fast.training.trainer import train
from tests.cli.calls import call
from tests.training.conftest import train_config


def config(pictures, encoders, steps=1, source=None, **generator):
    """A run of resolutions 64 and 128 that learns next to nothing, so that what it starts from can be seen."""
    base = train_config(pictures, encoders, steps=steps)
    slow = replace(base.step, generator_learning_rate=1e-12, discriminator_learning_rate=1e-12)
    return replace(base, step=slow, init_from=source and str(source), generator=replace(base.generator, **generator))


@pytest.fixture(scope="module")
def small_run(pictures, encoders, tmp_path_factory):
    out = tmp_path_factory.mktemp("small")
    train(config(pictures, encoders, steps=2, image_sizes=(64,)), out)
    return out


def step_state(out):
    return load_checkpoint(latest_checkpoint(out / "checkpoints"), "gan")["task"]["train_step"]


def grown(pictures, encoders, source, out, **generator):
    """The state after one step that starts from ``source``."""
    train(config(pictures, encoders, source=source, **generator), out)
    return step_state(out)


def test_a_larger_model_takes_over_all_that_the_smaller_has(pictures, encoders, small_run, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "dmgan_fast"):
        state = grown(pictures, encoders, small_run, tmp_path / "grown")
    assert "fresh: discriminators 128" in caplog.text
    before = step_state(small_run)
    for key, value in before["generator"].items():
        if "running" not in key and "tracked" not in key:
            torch.testing.assert_close(state["generator"][key], value, rtol=0, atol=1e-10)
    for key, value in before["average"].items():
        if "running" not in key and "tracked" not in key:
            torch.testing.assert_close(state["average"][key], value, rtol=1e-3, atol=1e-4)
    for key, value in before["discriminators"][0].items():
        if key.split(".")[-1] not in ("u", "v"):
            torch.testing.assert_close(state["discriminators"][0][key], value, rtol=0, atol=1e-10)
    assert len(state["discriminators"]) == 2
    assert any(key.startswith("stages.0") for key in state["generator"])
    assert state["generator_optimizer"]["state"][0]["step"] == 1  # the optimisers start afresh


def test_weights_alone_start_generator_and_average(pictures, encoders, small_run, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "dmgan_fast"):
        state = grown(pictures, encoders, small_run / "weights", tmp_path / "grown")
    assert "fresh: discriminators 64, 128" in caplog.text
    saved = Generator.from_pretrained(small_run / "weights" / "generator").state_dict()
    key = "initial_stage.projection.weight"
    torch.testing.assert_close(state["generator"][key], saved[key], rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("generator", "message"),
    [
        ({"base_channels": 3}, r"it has base_channels 2 \(here 3\)"),
        ({"noise_channels": 5, "residual_blocks": 2}, r"noise_channels 4 \(here 5\), residual_blocks 1 \(here 2\)"),
    ],
)
def test_another_width_is_refused(pictures, encoders, small_run, tmp_path, generator, message):
    with pytest.raises(CheckpointError, match=message):
        grown(pictures, encoders, small_run, tmp_path / "grown", **generator)
    assert not (tmp_path / "grown" / "checkpoints").exists()


def test_a_larger_model_can_not_start_a_smaller_one(pictures, encoders, small_run, tmp_path):
    larger = tmp_path / "larger"
    train(train_config(pictures, encoders, steps=1), larger)
    with pytest.raises(CheckpointError, match="generates resolutions up to 128, this generator only up to 64"):
        grown(pictures, encoders, larger, tmp_path / "grown", image_sizes=(64,))


def test_nothing_to_start_from_is_named(pictures, encoders, tmp_path):
    with pytest.raises(CheckpointError, match="no weights at"):
        grown(pictures, encoders, tmp_path / "nowhere", tmp_path / "grown")


# -------------------------------------------------------------------------------------------------------------- budget


def test_a_budget_becomes_a_policy_that_trains_and_resumes(pictures, encoders, tmp_path):
    wanted = train_config(pictures, encoders, steps=2)
    everything = fit(wanted, "64GiB")[1]
    assert everything.policy == MemoryPolicy()
    planned, made = fit(wanted, str(everything.peak_bytes - 1))
    assert isinstance(planned, TrainConfig)
    assert planned.step.memory == made.policy != MemoryPolicy()
    train(planned, tmp_path / "run")
    plain = train_config(pictures, encoders, steps=3)
    train(plain, tmp_path / "run", resume=True)  # another policy may continue: it learns the same
    assert latest_checkpoint(tmp_path / "run" / "checkpoints").stem.endswith("3")


def test_an_impossible_budget_is_refused_with_what_would_fit(pictures, encoders):
    with pytest.raises(InputError, match=r"does not fit into 1MiB: the most frugal policy needs \d+ MiB"):
        fit(train_config(pictures, encoders), "1MiB")


# ----------------------------------------------------------------------------------------------- discriminators


def imported(pictures, encoders, folder, sides, **discriminator):
    """A bundle as `import` writes it: the run's generator of 64², and discriminators for these resolutions."""
    base = config(pictures, encoders)
    torch.manual_seed(7)
    made = {side: Discriminator(replace(base.discriminator(side), **discriminator)) for side in sides}
    drawn = Generator(replace(base.generator, image_sizes=(64,)))
    bundle = {"generator": drawn} | {f"discriminator_{side}": model for side, model in made.items()}
    save_bundle(folder, vocabulary=None, card="imported\n", **bundle)
    return {side: model.state_dict() for side, model in made.items()}


@pytest.mark.parametrize(
    ("sides", "said"),
    [
        ((64,), "discriminators 64; fresh: discriminators 128, stages of the generator 128, all optimisers"),
        ((64, 128), "discriminators 64, 128; fresh: discriminators none"),
        ((128,), "discriminators 128; fresh: discriminators 64"),
    ],
)
def test_discriminators_that_a_bundle_holds_are_taken_over_and_the_rest_is_named(
    pictures, encoders, tmp_path, caplog, sides, said
):
    theirs = imported(pictures, encoders, tmp_path / "b", sides, spectral_norm="official")
    with caplog.at_level(logging.INFO, "dmgan_fast"):
        state = grown(pictures, encoders, tmp_path / "b", tmp_path / "grown")
    assert said in caplog.text
    for side, before in theirs.items():
        after = state["discriminators"][(64, 128).index(side)]
        for key, value in before.items():
            if key.split(".")[-1] not in ("u", "v"):
                torch.testing.assert_close(after[key], value, rtol=0, atol=1e-10)


def test_discriminators_of_another_width_are_refused_by_side_and_value(pictures, encoders, tmp_path):
    imported(pictures, encoders, tmp_path / "b", (64,), base_channels=3)
    with pytest.raises(CheckpointError, match=r"discriminator for resolution 64: it has base_channels 3 \(here 2\)"):
        grown(pictures, encoders, tmp_path / "b", tmp_path / "grown")
    assert not (tmp_path / "grown").exists()


def test_a_checkpoint_of_a_step_starts_a_run_too(pictures, encoders, small_run, tmp_path):
    file = latest_checkpoint(small_run / "checkpoints")
    state, before = grown(pictures, encoders, file, tmp_path / "grown"), step_state(small_run)
    key = "initial_stage.projection.weight"
    torch.testing.assert_close(state["generator"][key], before["generator"][key], rtol=0, atol=1e-10)
    torch.testing.assert_close(
        state["discriminators"][0]["down.0.weight"], before["discriminators"][0]["down.0.weight"]
    )


def test_the_command_line_says_what_was_taken_over_and_what_starts_fresh(
    pictures, encoders, tmp_path, monkeypatch, capsys
):
    imported(pictures, encoders, tmp_path / "b", (64,), spectral_norm="official")
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(to_dict(config(pictures, encoders))))
    arguments = ("train", "--config", tmp_path / "c.yaml", "--init-from", tmp_path / "b", "--out", tmp_path / "run")
    status, _, errors = call(monkeypatch, capsys, *arguments)
    assert status == 0, errors
    said = f"dmgan-fast: started from {tmp_path / 'b'}; taken over: generator for resolutions 64, discriminators 64"
    assert f"{said}; fresh: " in errors
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(to_dict(config(pictures, encoders, base_channels=3))))
    status, _, errors = call(monkeypatch, capsys, *arguments[:-1], tmp_path / "other")
    assert status == 2
    assert "it has base_channels 2 (here 3); train one like it: --set generator.base_channels=2" in errors
