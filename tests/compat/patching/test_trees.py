"""Every module of a tree is judged."""

import torch

from dmgan_fast.compat import patch
from tests.compat.patched import STRUCTURES, built, whats


def test_what_is_replaced_in_each_structure():
    memory, residual = "memory refinement, and cat(h, h) into the first residual block", "residual block"
    glu, up = "batch norm → GLU", "up-block: nearest ×2 → 3×3 convolution → batch norm → GLU"
    found = {name: whats(patch(built(make, torch.float32))) for name, make in STRUCTURES.items()}
    conv = {name: counts.pop("3×3 convolution") for name, counts in found.items()}
    assert found["DM-GAN"] == {memory: 2, "attention read of words": 2, residual: 4, up: 4, glu: 5}
    assert found["AttnGAN"] == {"attention read of words": 1, residual: 2, up: 3, glu: 3}
    assert found["StackGAN-v2"] == {residual: 2, up: 3, glu: 4}
    assert found["DF-GAN"] == {}
    assert conv == {"DM-GAN": 15, "AttnGAN": 9, "StackGAN-v2": 10, "DF-GAN": 5}
