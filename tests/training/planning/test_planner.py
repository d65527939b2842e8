"""The choice of a policy, and what else would fit."""

from dataclasses import replace

import pytest

from dmgan_fast.errors import InputError
from dmgan_fast.modules import GeneratorConfig
from dmgan_fast.runs.config import LoopConfig, ParallelConfig
from dmgan_fast.runs.policy import MemoryPolicy
from dmgan_fast.training.planning import measure as measuring
from dmgan_fast.training.planning.plan import Plan
from dmgan_fast.training.planning.planner import fit, plan
from dmgan_fast.training.planning.search import most_frugal
from dmgan_fast.training.step import TrainStep
from tests.training.planning.test_measure import MiB, config


def test_the_cheapest_policy_that_fits_is_chosen():
    chosen = config()
    plenty = plan(chosen, batch_size=4, memory_bytes=150 * MiB, device="cpu")
    assert plenty.fits
    assert plenty.policy == MemoryPolicy()
    assert plenty.recompute_flops == 0
    tight = plan(chosen, batch_size=4, memory_bytes=plenty.peak_bytes - 1, device="cpu")
    assert tight.fits
    assert tight.policy != MemoryPolicy()
    assert tight.peak_bytes < plenty.peak_bytes
    assert tight.peak_bytes == sum(tight.peak.values())
    fitting = [cost for cost in tight.tried if cost.peak_bytes <= tight.memory_bytes]
    assert tight.flops == min(cost.flops for cost in fitting)
    # What is said to fit does fit, and one more does not.
    measure = measuring.measure_of(chosen, "cpu")
    frugal = most_frugal(chosen, 4)
    largest = tight.largest_batch
    assert measure(frugal, largest).peak_bytes <= tight.memory_bytes < measure(frugal, largest + 1).peak_bytes
    assert tight.largest_resolution == 128
    assert plenty.largest_resolution == 256


def test_if_nothing_fits_it_says_what_would():
    nothing = plan(config(), batch_size=64, memory_bytes=60 * MiB, device="cpu")
    assert not nothing.fits
    assert nothing.peak_bytes == min(cost.peak_bytes for cost in nothing.tried)
    assert 2 <= nothing.largest_batch < 64
    text = nothing.explain()
    assert "does not fit" in text
    assert f"a batch of {nothing.largest_batch}" in text
    hopeless = plan(config(), batch_size=2, memory_bytes=MiB, device="cpu")
    assert (hopeless.fits, hopeless.largest_batch, hopeless.largest_resolution) == (False, 0, 0)


def test_a_generator_configuration_is_enough():
    generator = GeneratorConfig(image_sizes=(64,), base_channels=4, word_channels=16)
    made = plan(generator, batch_size=2, memory_bytes=8 << 30, device="cpu")
    assert isinstance(made, Plan)
    assert made.resolution == 64
    assert made.peak["weights"] > 80 * MiB  # the paper's image encoder is part of the step


@pytest.mark.parametrize("norm", [{"spectral_norm": "official"}, {"spectral_norm": "none", "batch_norm": True}])
def test_discriminators_that_need_whole_batches_are_planned_without_micro_batches(norm):
    official = replace(config(), **norm)
    made = plan(official, batch_size=8, memory_bytes=MiB, device="cpu")
    assert all(cost.policy.micro_batch is None for cost in made.tried)
    step = measuring.models_of(official)
    assert isinstance(step, TrainStep)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 1, "memory_bytes": 1 << 30}, "batch_size must be at least 2"),
        ({"batch_size": 4, "memory_bytes": 0}, "memory_bytes must be positive"),
    ],
)
def test_impossible_questions_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        plan(config(), **options)


def test_processes_that_hold_images_together_are_planned_for(monkeypatch):
    """Each needs less, and takes no tiles; a batch is divided among their groups."""
    monkeypatch.setenv("WORLD_SIZE", "4")
    of_rows = replace(config(), parallel=ParallelConfig(rows=2), loop=LoopConfig(batch_size=8))
    whole = plan(config(), batch_size=4, memory_bytes=100 * MiB, device="cpu")
    chosen, found = fit(of_rows, "100MiB")
    assert found.batch_size == 4
    assert found.tried[0].peak_bytes < whole.tried[0].peak_bytes
    assert chosen.step.memory == found.policy
    assert "each image on 2 processes" in found.explain()
    assert "processes" not in whole.explain()
    nothing = plan(of_rows, batch_size=64, memory_bytes=40 * MiB, device="cpu")
    assert not nothing.fits
    assert "tile" not in nothing.explain()
