"""The discriminator."""

import pytest
import torch

from dmgan_fast.errors import InputError
from dmgan_fast.modules import Discriminator, DiscriminatorConfig


def test_discriminator_refuses_bad_input():
    discriminator = Discriminator(DiscriminatorConfig(image_size=64, base_channels=2, sentence_channels=16))
    with pytest.raises(InputError, match=r"images must be \[B, 3, 64, 64\], got \[2, 3, 32, 32\]"):
        discriminator.features(torch.zeros(2, 3, 32, 32))
    features = discriminator.features(torch.zeros(2, 3, 64, 64))
    assert discriminator.logits(features).shape == (2,)
    with pytest.raises(InputError, match=r"sentence must be \[2, 16\], got \[2, 15\]"):
        discriminator.logits(features, torch.zeros(2, 15))
