"""Widths of a small generator, and what it is called with."""

import torch

from dmgan_fast.modules import padding_mask

SMALL = {"base_channels": 4, "word_channels": 16, "condition_channels": 12, "noise_channels": 10}


def inputs(batch=3, words=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([words, 2, 4])[:batch]
    return {
        "noise": torch.randn(batch, 10, generator=generator),
        "sentence": torch.randn(batch, 16, generator=generator),
        "words": torch.randn(batch, 16, words, generator=generator),
        "padding_mask": padding_mask(lengths, words),
        "eps": torch.randn(batch, 12, generator=generator),
    }
