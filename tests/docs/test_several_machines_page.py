"""The Python of docs/several-machines.md, in a group of one process."""

import socket

import pytest
import torch
from torch import distributed

from dmgan_fast import Batch, Discriminator, DiscriminatorConfig, Generator, GeneratorConfig, ImageEncoder
from dmgan_fast.modules import ImageEncoderConfig
from tests.docs.test_pages import run


@pytest.fixture
def as_torchrun(monkeypatch):
    """The variables that torchrun sets for the only process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))
    yield
    distributed.destroy_process_group()


def test_a_step_in_a_group_is_taken_as_the_page_says(as_torchrun):
    torch.manual_seed(0)
    config = GeneratorConfig(
        image_sizes=(64,), base_channels=2, word_channels=8, condition_channels=4, noise_channels=4
    )
    batch = Batch(
        images=[torch.rand(2, 3, 64, 64)],
        words=torch.randn(2, 8, 3),
        sentence=torch.randn(2, 8),
        padding_mask=torch.zeros(2, 3, dtype=torch.bool),
        lengths=torch.tensor([3, 3]),
        class_ids=torch.tensor([0, 1]),
    )
    names = {
        "generator": Generator(config),
        "discriminators": [Discriminator(DiscriminatorConfig(image_size=64, base_channels=2, sentence_channels=8))],
        "image_encoder": ImageEncoder(ImageEncoderConfig(kind="compact", channels=8, image_size=64, base_channels=2)),
        "part_of_the_batch": batch,
    }
    run("docs/several-machines.md", names)
    assert all(loss.isfinite() for loss in names["losses"].values())
