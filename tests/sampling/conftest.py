"""A small model with weights of its own, as folder and as sampler."""

import pytest
import torch

from dmgan_fast.data import Vocabulary
from dmgan_fast.modules import Generator, GeneratorConfig, TextEncoder, TextEncoderConfig
from dmgan_fast.sampling.bundle import save_bundle
from dmgan_fast.sampling.sampler import Sampler
from tests.modules.conftest import hub  # noqa: F401
from tests.training.conftest import encoders, measured_run, one_thread, pictures  # noqa: F401

SIDE = 128


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    vocabulary = Vocabulary(["<end>", "a", "red", "blue", "apple", "car", "тигр", "x" * 100])
    widths = {"base_channels": 2, "word_channels": 8, "condition_channels": 4, "noise_channels": 4}
    generator = Generator(GeneratorConfig(image_sizes=(64, SIDE), **widths))
    with torch.no_grad():
        for head in generator.image_heads:  # contrast that an untrained generator has not
            head.conv.weight *= 1000
    text_encoder = TextEncoder(TextEncoderConfig(vocabulary_size=8, word_channels=8, embedding_channels=4))
    with torch.no_grad():
        text_encoder.embedding.weight *= 30
    save_bundle(folder, vocabulary=vocabulary, card="", generator=generator, text_encoder=text_encoder)
    return folder


@pytest.fixture
def sampler(weights):
    return Sampler.from_pretrained(weights)
