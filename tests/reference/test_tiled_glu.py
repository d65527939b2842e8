"""tiled_glu: PyTorch's own modules one after another."""

import pytest
import torch
from torch import nn

from dmgan_fast.reference.batch_norm_glu import BatchNorm
from dmgan_fast.reference.tiled_glu import tiled_glu


@pytest.mark.parametrize("upsample", [False, True])
@pytest.mark.parametrize("head", [False, True])
def test_it_is_convolution_norm_gate_and_perhaps_a_head(upsample, head):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 5).double()
    conv, norm = nn.Conv2d(3, 8, 3, padding=1, bias=False).double(), nn.BatchNorm2d(8).double()
    to_image = nn.Conv2d(4, 3, 3, padding=1, bias=False).double()
    nn.init.normal_(norm.weight)
    parts = [nn.Upsample(scale_factor=2)] if upsample else []
    parts += [conv, norm, nn.GLU(1)] + ([to_image, nn.Tanh()] if head else [])
    mean, var = torch.zeros(8).double(), torch.ones(8).double()
    found = tiled_glu(
        x,
        conv.weight,
        BatchNorm(norm.weight, norm.bias, mean, var, True),
        upsample=upsample,
        head_weight=to_image.weight if head else None,
    )
    torch.testing.assert_close(found, nn.Sequential(*parts)(x))
    torch.testing.assert_close((mean, var), (norm.running_mean, norm.running_var))
