"""Settings of a run: what they refuse, and the discriminators that they describe."""

import pytest

from dmgan_fast.config import load_config, to_dict
from dmgan_fast.errors import InputError
from dmgan_fast.runs.config import DataConfig, LoopConfig, PretrainConfig, StepConfig, TrainConfig


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"generator_learning_rate": 0.0}, "generator_learning_rate must be above 0, got 0.0"),
        ({"gamma3": -1.0}, "gamma3 must be above 0, got -1.0"),
        ({"conditioning_weight": -0.5}, "conditioning_weight must be 0 or more, got -0.5"),
        ({"betas": (0.5, 1.0)}, r"betas must lie in \[0, 1\), got \(0.5, 1.0\)"),
        ({"average_decay": 1.0}, r"average_decay must lie in \[0, 1\), got 1.0"),
        ({"accumulate": 0}, "accumulate must be 1 or more, got 0"),
        (
            {"cuda_graph": True, "memory": {"offload": True}},
            r"cuda_graph does not go with memory\.offload",
        ),
    ],
)
def test_a_step_that_can_not_be_is_refused_with_what_is_allowed(values, message):
    with pytest.raises(InputError, match=message):
        load_config(StepConfig, values)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (DataConfig, {"max_words": 0}, "max_words: .*greater than or equal to 1, got 0"),
        (LoopConfig, {"batch_size": 1}, "batch_size: .*greater than or equal to 2, got 1"),
        (LoopConfig, {"best_by": "is"}, "best_by: .*'fid', 'kid' or 'r_precision', got 'is'"),
        (PretrainConfig, {"image_size": 16}, "image_size: .*greater than or equal to 32, got 16"),
        (TrainConfig, {"spectral_norm": "both"}, "spectral_norm: .*got 'both'"),
    ],
)
def test_values_out_of_range_are_named_with_the_range(kind, values, message):
    with pytest.raises(InputError, match=message):
        load_config(kind, values)


@pytest.mark.parametrize("kind", [PretrainConfig, TrainConfig])
def test_settings_survive_being_written(kind):
    assert load_config(kind, to_dict(kind())) == kind()


def test_a_discriminator_fits_the_generator_and_the_settings():
    config = load_config(
        TrainConfig,
        {
            "generator": {"word_channels": 24},
            "discriminator_channels": 6,
            "spectral_norm": "none",
            "batch_norm": True,
        },
    )
    found = config.discriminator(128)
    assert (found.image_size, found.base_channels, found.sentence_channels) == (128, 6, 24)
    assert (found.spectral_norm, found.batch_norm) == ("none", True)
