"""A small ablation, trained once."""

import pytest
import torch

from dmgan_fast.experiments import ablate
from tests.training.conftest import encoders, one_thread, pictures  # noqa: F401  # fixtures

SMALL = (
    "data.max_words=4",
    "generator.image_sizes=[64,128]",
    "generator.base_channels=2",
    "generator.word_channels=8",
    "generator.condition_channels=4",
    "generator.noise_channels=4",
    "discriminator_channels=2",
    "loop.steps=1",
    "loop.batch_size=4",
)


@pytest.fixture(scope="session")
def small(pictures, encoders):  # noqa: F811
    """Arguments of a small ablation."""
    return {"preset": "demo", "settings": SMALL, "data": str(pictures), "damsm": str(encoders), "count": 120}


@pytest.fixture(scope="session")
def ablation(small, tmp_path_factory):
    """Two variants and two seeds."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("ablation")
    ablate(out, variants=("dm-gan", "attention"), seeds=2, metrics=("r-precision", "fid-damsm"), **small)
    return out
