"""Patched blocks of batch norm, GLU and convolutions."""

import copy

import pytest
import torch
from torch import nn

from dmgan_fast.compat import patch
from tests.compat import standins
from tests.compat.patched import built


def test_second_derivatives_through_batch_norm_and_glu_are_refused_loudly():
    model = built(lambda: standins.keep_block(4, 4), torch.float32)
    patch(model)
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative"):
        gradient.square().sum().backward()


def test_what_is_put_in_a_patched_block_later_is_what_runs():
    plain = built(lambda: standins.up_block(4, 4), torch.float32)
    fast = copy.deepcopy(plain)
    patch(fast)
    for model in (plain, fast):
        model[2] = nn.InstanceNorm2d(8)
    x = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(fast(x), plain(x))


def test_sync_batch_norm_put_in_later_is_kept():
    model = built(lambda: standins.up_block(4, 4), torch.float32).eval()
    x = torch.randn(2, 4, 8, 8)
    expected = model(x)
    patch(model)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert isinstance(converted[2], nn.SyncBatchNorm)
    torch.testing.assert_close(converted(x), expected, rtol=1e-4, atol=1e-5)
