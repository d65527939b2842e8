"""3×3 convolutions on CPUs, by either kernel: results, and each gradient alone."""

import pytest
import torch
from torch.nn import functional as F

from dmgan_fast.aten.conv3x3 import conv3x3_backward, conv3x3_forward


@pytest.mark.parametrize("side", [6, 96])
@pytest.mark.parametrize("wanted", [(True, False), (False, True)])
def test_each_gradient_comes_alone_and_is_that_of_pytorch_in_float64(side, wanted):
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(*size, generator=generator, dtype=torch.float64).requires_grad_()
        for size in ((2, 33, side, side), (17, 33, 3, 3), (17,))
    )
    expected = F.conv2d(x, weight, bias, stride=1, padding=1)
    grad = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    expected.backward(grad)
    x32, weight32, bias32, grad32 = (each.detach().float() for each in (x, weight, bias, grad))
    y = conv3x3_forward(x32, weight32, bias32)
    torch.testing.assert_close(y.double(), expected.detach(), rtol=1e-4, atol=1e-4)
    found = conv3x3_backward(grad32, x32, weight32, *wanted)
    for result, leaf, asked in zip(found, (x, weight), wanted, strict=True):
        if asked:
            assert (result.double() - leaf.grad).abs().max() <= 1e-5 * leaf.grad.abs().max()
        else:
            assert result.numel() == 0
