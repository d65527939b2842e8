"""Sums of gradients over three processes, against one backward with all rows."""

import gc
import weakref

import pytest
import torch
from torch import nn

from dmgan_fast.parallel import GradientSum
from dmgan_fast.parallel.collectives import AbsentGroup
from dmgan_fast.parallel.gradients import ALIGNED
from tests.parallel.conftest import whole


def on_one():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    model(whole()).sum().backward()
    model(whole()).square().sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("buckets", ["one", "all"])
def test_two_backward_passes_are_added_up_over_processes_once(of_three, buckets):
    for found in of_three[0]:
        for name, gradient in on_one().items():
            torch.testing.assert_close(found["gradients"][f"{name} {buckets}"], gradient, rtol=1e-13, atol=1e-13)


def test_whole_buckets_go_out_while_backward_goes_on(of_three):
    """With a bucket for each parameter all four are on their way before ``finish``; the unused one holds none back."""
    for found in of_three[0]:
        assert found["gradients"]["sent meanwhile one"] == 4
        assert found["gradients"]["sent meanwhile all"] == 0  # the bucket waits for the unused parameter


def test_gradients_of_a_bucket_are_views_of_it_with_the_strides_of_their_parameters():
    """Nothing is held twice, and optimisers get gradients laid out as the weights."""
    torch.manual_seed(0)
    kernel = torch.randn(3, 5, 3, 3).contiguous(memory_format=torch.channels_last)
    parameters = [nn.Parameter(x) for x in (torch.randn(7), kernel, torch.randn(2, 3), torch.randn(4, 4)[:, :3])]
    gradients = [torch.randn(p.shape) for p in parameters]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    sums = GradientSum(parameters, AbsentGroup(0, 2))
    sums.finish()
    assert len(sums.buckets) == 1
    for parameter, gradient in zip(parameters, gradients, strict=True):
        assert torch.equal(parameter.grad, gradient)
        assert parameter.grad.stride() == (parameter.stride() if parameter.numel() != 12 else (3, 1))
        assert parameter.grad.data_ptr() % ALIGNED == 0
    assert len({parameter.grad.untyped_storage().data_ptr() for parameter in parameters}) == 1


def test_a_gradient_that_fills_a_bucket_is_sent_as_it_is():
    parameter = nn.Parameter(torch.randn(4, 5))
    parameter.grad = torch.randn(4, 5)
    before = parameter.grad.data_ptr()
    GradientSum([parameter], AbsentGroup(0, 2), bucket_bytes=1).finish()
    assert parameter.grad.data_ptr() == before


def test_a_model_is_freed_with_its_sum():
    model = nn.Linear(4, 3)
    sums = GradientSum(model.parameters(), AbsentGroup(0, 2))
    weight = weakref.ref(model.weight)
    del model, sums
    gc.collect()
    assert weight() is None


def test_without_its_sum_a_model_learns_alone():
    model = nn.Linear(4, 3)
    sums = GradientSum(model.parameters(), AbsentGroup(0, 2))
    del sums
    model(torch.ones(2, 4)).sum().backward()
    assert model.weight.grad.tolist() == [[2.0] * 4] * 3
