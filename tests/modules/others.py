"""A small generator in others' code, its inputs, and its norms."""

import torch

from dmgan_fast.modules import GeneratorConfig

CONFIG = GeneratorConfig(
    image_sizes=(64, 128), base_channels=2, residual_blocks=1, word_channels=8, condition_channels=4, noise_channels=4
)


def inputs(seed=0):
    draw = torch.Generator().manual_seed(seed)
    noise, sentence, eps = (torch.randn(3, size, generator=draw) for size in (4, 8, 4))
    words = torch.randn(3, 8, 5, generator=draw)
    mask = torch.arange(5) >= torch.tensor([5, 2, 3])[:, None]
    return {"noise": noise, "sentence": sentence, "words": words, "padding_mask": mask, "eps": eps}
