"""Derivatives of all convolutions."""

import pytest
import torch

from dmgan_fast import functional
from tests.ops.convolution_cases import case
from tests.ops.harness import inputs, relative_error


@pytest.fixture(autouse=True)
def poisoned_memory():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("op", ["conv3x3", "conv4x4_stride2", "upsample_conv3x3"])
def test_second_derivatives_are_right(op):
    tensors = inputs(case(2, 18, 5, 40, 38, op=op), torch.float32, "cpu")
    exact = {name: x.detach().double().requires_grad_() for name, x in tensors.items()}

    def penalty(tensors, backend):
        """A gradient penalty's gradients."""
        y = getattr(functional, op)(**tensors, backend=backend)
        grads = torch.autograd.grad(y.square().sum(), list(tensors.values()), create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in grads), list(tensors.values()))

    for found, truth in zip(penalty(tensors, "cpu"), penalty(exact, "reference"), strict=True):
        assert relative_error(found, truth) < 2e-6
