"""Promises of the models that the golden arrays do not cover."""

import pytest
import torch

from dmgan_fast.errors import CheckpointError
from dmgan_fast.modules import (
    Discriminator,
    DiscriminatorConfig,
    Generator,
    GeneratorConfig,
    ImageEncoder,
    ImageEncoderConfig,
    TextEncoder,
    TextEncoderConfig,
)
from tests.modules.small import SMALL, inputs


def test_published_numbers_of_parameters():
    with torch.device("meta"):
        generator = Generator(GeneratorConfig())
        counts = [
            sum(p.numel() for p in Discriminator(DiscriminatorConfig(image_size=side)).parameters())
            for side in (64, 128, 256)
        ]
    assert sum(p.numel() for p in generator.parameters()) == 21_449_042
    assert counts == [1_878_242, 5_155_810, 18_264_546]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GeneratorConfig(image_sizes=(64, 96)), r"image_sizes must start at 64 and double.*got \(64, 96\)"),
        (lambda: GeneratorConfig(image_sizes=()), "image_sizes"),
        (lambda: GeneratorConfig(base_channels=0), "base_channels must be at least 1, got 0"),
        (lambda: DiscriminatorConfig(image_size=96), "power of two of at least 64, got 96"),
        (lambda: DiscriminatorConfig(image_size=32), "got 32"),
        (lambda: TextEncoderConfig(vocabulary_size=5, word_channels=7), "word_channels must be even"),
        (lambda: TextEncoderConfig(vocabulary_size=0), "vocabulary_size"),
        (lambda: ImageEncoderConfig(image_size=50), "image_size must be a multiple of 16"),
    ],
)
def test_configurations_refuse_what_makes_no_model(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_save_and_load_keep_bits_and_configuration(tmp_path):
    for model in (
        Generator(GeneratorConfig(image_sizes=(64, 128), mask_mode="official", **SMALL)),
        Discriminator(DiscriminatorConfig(image_size=64, base_channels=2)),
        TextEncoder(TextEncoderConfig(vocabulary_size=5, word_channels=4, embedding_channels=3)),
        ImageEncoder(ImageEncoderConfig(kind="compact", channels=4, base_channels=2)),
    ):
        folder = tmp_path / type(model).__name__
        model.save_pretrained(folder)
        again = type(model).from_pretrained(folder)
        assert again.config == model.config
        assert not again.training
        for key, value in model.state_dict().items():
            assert torch.equal(value, again.state_dict()[key]), key
    with pytest.raises(CheckpointError, match="describes a TextEncoder, but a Generator was asked for"):
        Generator.from_pretrained(tmp_path / "TextEncoder")
    with pytest.raises(CheckpointError, match="neither a folder"):
        Generator.from_pretrained(tmp_path / "nothing")
    (tmp_path / "Generator" / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        Generator.from_pretrained(tmp_path / "Generator")


def test_generator_and_discriminator_compile_into_one_graph():
    generator = Generator(GeneratorConfig(image_sizes=(64, 128), **SMALL))
    batch = inputs()
    compiled = torch.compile(generator, fullgraph=True, backend="aot_eager")
    expected = generator(**batch)
    state = {k: v.clone() for k, v in generator.state_dict().items()}
    assert torch.allclose(compiled(**batch).images[-1], expected.images[-1], atol=1e-5)
    assert any(not torch.equal(v, state[k]) for k, v in generator.state_dict().items())  # statistics move in the graph
    discriminator = Discriminator(DiscriminatorConfig(image_size=64, base_channels=2, sentence_channels=16))
    judge = torch.compile(discriminator, fullgraph=True, backend="aot_eager")
    assert judge(torch.zeros(2, 3, 64, 64), torch.zeros(2, 16)).shape == (2,)
