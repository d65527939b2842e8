"""upsample_conv3x3 and the transposed convolution."""

import pytest
import torch
from torch.nn import functional as F

from dmgan_fast import functional
from dmgan_fast.ops import _backends
from tests.ops.arguments import B, C, D, H, W, rand


@pytest.fixture(autouse=True)
def seed(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.delenv(_backends.VARIABLE, raising=False)


def test_upsampling_equals_the_transposed_convolution():
    x, weight = rand(B, C, H, W), rand(D, C, 3, 3)
    flipped = weight.flip(2, 3).transpose(0, 1)
    spread = sum(F.pad(flipped, (i, 1 - i, j, 1 - j)) for i in (0, 1) for j in (0, 1))
    expected = F.conv_transpose2d(x, spread, stride=2, padding=1)
    torch.testing.assert_close(functional.upsample_conv3x3(x, weight), expected)
