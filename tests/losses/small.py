"""Features of a few images and captions, and a discriminator."""

import torch

from dmgan_fast.modules import Discriminator, DiscriminatorConfig

B, D, T, SIDE = 4, 6, 5, 3


def inputs(size=B, dtype=torch.float64):
    regions, words = torch.randn(size, D, SIDE, SIDE, dtype=dtype), torch.randn(size, D, T, dtype=dtype)
    return regions.requires_grad_(), words.requires_grad_(), torch.tensor([5, 3, 1, 4])[:size]


def codes(size=B, dtype=torch.float64):
    return torch.randn(size, D, dtype=dtype, requires_grad=True), torch.randn(size, D, dtype=dtype, requires_grad=True)


def discriminator(size=64):
    config = DiscriminatorConfig(image_size=size, base_channels=2, sentence_channels=D)
    return Discriminator(config).double()
