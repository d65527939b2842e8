"""conv4x4_stride2: what runs it, its bias, bad input."""

import pytest
import torch
from torch.nn import functional as F

from dmgan_fast import functional
from dmgan_fast.errors import BackendError, InputError


@pytest.mark.parametrize("side", [31, 32])
def test_sides_may_be_odd_and_the_last_line_of_padding_is_then_left_out(side):
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*size, generator=generator) for size in ((2, 17, side, side), (5, 17, 4, 4), (5,)))
    y = functional.conv4x4_stride2(x, weight, bias)
    assert y.shape == (2, 5, side // 2, side // 2)
    truth = F.conv2d(x.double(), weight.double(), bias.double(), stride=2, padding=1)
    assert (y - truth).abs().max() <= 1e-5 * truth.abs().max()


def test_autocast_runs_pytorchs_convolution():
    x, weight = torch.randn(2, 4, 6, 6), torch.randn(3, 4, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        y = functional.conv4x4_stride2(x, weight)
        assert torch.equal(y, F.conv2d(x, weight, stride=2, padding=1))
    assert y.dtype == torch.bfloat16


def test_float64_is_the_references():
    with pytest.raises(BackendError, match=r"it takes float32, bfloat16 and float16, got torch.float64"):
        functional.conv4x4_stride2(torch.ones(1, 4, 6, 6).double(), torch.ones(5, 4, 4, 4).double(), backend="cpu")


@pytest.mark.parametrize(
    ("weight", "bias", "message"),
    [
        ((5, 4, 3, 3), (5,), r"conv4x4_stride2: weight must have shape \[O, 4, 4, 4\], got \[5, 4, 3, 3\]"),
        ((5, 4, 4, 4), (4,), r"conv4x4_stride2: bias must have shape \[5\], got \[4\]"),
    ],
)
def test_bad_input_is_named(weight, bias, message):
    with pytest.raises(InputError, match=message):
        functional.conv4x4_stride2(torch.zeros(1, 4, 6, 6), torch.zeros(*weight), torch.zeros(*bias))
