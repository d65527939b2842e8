"""Tensors without data have the shapes, strides and types of real ones."""

import pytest
import torch
from torch.nn import functional as F

from dmgan_fast.metering.dataless import Dataless, Unfit, signature


def work(x, weight):
    """Views, in-place writes, convolutions and reductions, and a backward through them."""
    y = F.conv2d(x, weight, padding=1)
    y = F.leaky_relu(y, 0.2).add_(1)
    y[:, :1].mul_(2)
    halves = y.chunk(2, 1)
    z = torch.cat((halves[0] * halves[1].sigmoid(), halves[1].transpose(2, 3).contiguous().mT), 1)
    z.square().mean((2, 3)).sum().backward()
    return y, *halves, z, z.bfloat16().flatten(2), weight.grad


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_results_look_as_those_of_real_tensors_each_time(layout):
    def told():
        x = torch.randn(2, 4, 6, 6).contiguous(memory_format=layout)
        results = work(x, torch.randn(8, 4, 3, 3, requires_grad=True))
        return [(each.shape, each.stride(), each.dtype, each.device.type) for each in results]

    real = told()
    with Dataless():
        assert told() == real
        assert told() == real, "from what is remembered"


def test_no_memory_is_taken():
    with Dataless():
        huge = torch.empty(1 << 20, 1 << 20) @ torch.empty(1 << 20, 3)
    assert huge.shape == (1 << 20, 3)


def test_equal_numbers_of_other_types_are_other_arguments_and_tensors_with_data_are_none():
    assert len({signature((1, [value])) for value in (1, 1.0, True)}) == 3
    with pytest.raises(Unfit):
        signature([torch.ones(2)])
