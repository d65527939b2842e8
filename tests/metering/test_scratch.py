"""Bytes that convolutions hold inside themselves on a CPU."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from dmgan_fast.metering.scratch import bytes_inside


class Calls(TorchDispatchMode):
    """Bytes inside of each call of an operator."""

    def __init__(self):
        super().__init__()
        self.bytes = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.bytes[str(func)] = bytes_inside(func, args, result)
        return result


def peak_of(call):
    """Bytes that were alive at once and were made within, as PyTorch's profiler saw them."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        kept = call()
    now = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak, kept


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_convolution_in_float32_holds_what_the_profiler_sees_within_five_per_cent(layout):
    x = torch.randn(2, 24, 40, 40).contiguous(memory_format=layout)
    weight = torch.randn(40, 24, 3, 3)
    if layout == torch.channels_last:
        weight = weight.contiguous(memory_format=layout)
    with Calls() as calls:
        y = torch.conv2d(x, weight, padding=1)
    torch.conv2d(x, weight, padding=1)  # what is made once is there
    peak, _ = peak_of(lambda: torch.conv2d(x, weight, padding=1))
    told = calls.bytes["aten.convolution.default"] + y.nbytes
    assert told == pytest.approx(peak, rel=0.05)


def test_other_operators_hold_nothing():
    with Calls() as calls:
        torch.randn(4, 4) @ torch.randn(4, 4)
    assert set(calls.bytes.values()) == {0}
