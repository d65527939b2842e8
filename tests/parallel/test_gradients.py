"""Sums of gradients over three processes, against one backward with all rows."""

import pytest
import torch
from torch import nn

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
