"""Weights rounded together, and the way back of their gradients."""

import torch

from dmgan_fast.modules.rounding import autocast_dtype, round_together


def test_each_is_rounded_as_alone_in_its_layout_and_gradients_come_back_wide():
    draw = torch.Generator().manual_seed(0)
    weights = [torch.randn(size, generator=draw).requires_grad_() for size in ((4, 3, 2, 2), (5,), (6, 2))]
    last = weights[0].detach().to(memory_format=torch.channels_last).requires_grad_()
    weights.append(last)
    rounded = round_together(weights, torch.bfloat16)
    for own, half in zip(weights, rounded, strict=True):
        assert torch.equal(half, own.bfloat16())
        assert half.stride() == own.stride()
    (sum((half * half).sum() for half in (rounded[0], rounded[1], rounded[3]))).backward()
    for own, half in zip(weights, rounded, strict=True):
        if half is rounded[2]:
            assert own.grad is None, "nothing reached it"
        else:
            assert own.grad.dtype == torch.float32
            assert torch.equal(own.grad, (2 * half).float())


def test_autocast_rounds_float32_where_it_is_on():
    weight = torch.zeros(2)
    assert autocast_dtype(weight) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert autocast_dtype(weight) == torch.bfloat16
        assert autocast_dtype(weight.double()) is None
