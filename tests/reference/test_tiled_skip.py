"""tiled_skip: PyTorch's own modules one after another."""

import torch
from torch import nn

from dmgan_fast.reference.batch_norm_glu import BatchNorm
from dmgan_fast.reference.tiled_skip import tiled_skip


def test_it_is_convolution_norm_and_the_skip_in_turn():
    torch.manual_seed(0)
    x, skip = torch.randn(2, 3, 4, 5).double(), torch.randn(2, 4, 4, 5).double()
    conv, norm = nn.Conv2d(3, 8, 3, padding=1, bias=False).double(), nn.BatchNorm2d(8).double()
    nn.init.normal_(norm.weight)
    found = tiled_skip(x, conv.weight, BatchNorm(norm.weight, norm.bias, None, None, True), skip)
    torch.testing.assert_close(found, norm(conv(x)) + torch.cat((skip, skip), 1))
