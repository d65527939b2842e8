"""What tests of the convolutions on CPUs share."""

import torch
from torch.nn import functional as F


def assert_as_pytorch_in_float64(forward, backward, side, wanted, *, taps, stride):
    """The result, and the wanted gradients of x and the weight, of a map ``side`` high and wide; others are empty."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(*size, generator=generator, dtype=torch.float64).requires_grad_()
        for size in ((2, 33, side, side), (17, 33, taps, taps), (17,))
    )
    expected = F.conv2d(x, weight, bias, stride=stride, padding=1)
    grad = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    expected.backward(grad)
    x32, weight32, bias32, grad32 = (each.detach().float() for each in (x, weight, bias, grad))
    y = forward(x32, weight32, bias32)
    torch.testing.assert_close(y.double(), expected.detach(), rtol=1e-4, atol=1e-4)
    found = backward(grad32, x32, weight32, *wanted)
    for result, leaf, asked in zip(found, (x, weight), wanted, strict=True):
        if asked:
            assert (result.double() - leaf.grad).abs().max() <= 1e-5 * leaf.grad.abs().max()
        else:
            assert result.numel() == 0
