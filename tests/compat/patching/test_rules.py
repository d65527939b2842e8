"""Options of a patch."""

import pytest
import torch
from torch import nn

from dmgan_fast.compat import patch
from tests.compat.patched import built, whats
from tests.compat.standins import DMGAN, AttnGAN, Encoder, Judge


@pytest.mark.parametrize(
    "option", ["memory", "batch_norm_glu", "upsample", "convolutions", "spectral_norm", "image_encoder"]
)
def test_an_option_that_is_off_replaces_nothing_of_its_kind(option):
    kinds = {
        "memory": ("memory", "attention"),
        "batch_norm_glu": ("GLU", "residual"),
        "upsample": ("nearest", "up-block"),
        "convolutions": ("3×3 convolution", "4×4"),
        "spectral_norm": ("spectral",),
        "image_encoder": ("encoder",),
    }
    model = nn.ModuleList([built(make, torch.float32) for make in (DMGAN, AttnGAN, Judge, Encoder)])
    handle = patch(model, **{option: False})
    if option == "convolutions":
        assert not {what for what in whats(handle) if what in ("3×3 convolution", "4×4 convolution with stride 2")}
    else:
        assert not [what for what in whats(handle) if what.startswith(kinds[option]) or kinds[option][0] in what]
    assert len(whats(handle)) >= 4
