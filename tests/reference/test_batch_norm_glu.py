"""batch_norm_glu as the paper writes it."""

import pytest
import torch

from dmgan_fast.reference.batch_norm_glu import BatchNorm, batch_norm_glu


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def rand(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def test_each_number_is_the_formulas():
    x, weight, bias = rand(3, 4, 2, 5), rand(4), rand(4)
    y = batch_norm_glu(x, BatchNorm(weight, bias, None, None, True, eps=1e-3))
    z = torch.stack(
        [
            (x[:, c] - x[:, c].mean()) / (x[:, c].var(correction=0) + 1e-3).sqrt() * weight[c] + bias[c]
            for c in range(4)
        ],
        1,
    )
    assert y.shape == (3, 2, 2, 5)
    torch.testing.assert_close(y, z[:, :2] / (1 + (-z[:, 2:]).exp()))


def test_with_a_skip_channels_take_it_in_turn_and_there_is_no_gate():
    x, skip = rand(2, 6, 3, 3), rand(2, 2, 3, 3)
    norm = BatchNorm(None, None, None, None, True)
    plain = batch_norm_glu(x, norm, torch.zeros_like(skip))
    found = batch_norm_glu(x, norm, skip)
    for channel in range(6):
        torch.testing.assert_close(found[:, channel], plain[:, channel] + skip[:, channel % 2])


def test_running_statistics_move_in_training_and_are_used_in_evaluation():
    x, mean, var = rand(3, 4, 5, 5), torch.zeros(4).double(), torch.ones(4).double()
    batch_norm_glu(x, BatchNorm(None, None, mean, var, True, momentum=0.25))
    torch.testing.assert_close(mean, 0.25 * x.mean((0, 2, 3)))
    torch.testing.assert_close(var, 0.75 + 0.25 * x.var((0, 2, 3), correction=1))
    before = mean.clone()
    y = batch_norm_glu(x, BatchNorm(None, None, mean, var, False, eps=0.0))
    a, b = ((x - mean[:, None, None]) / var.sqrt()[:, None, None]).chunk(2, 1)
    torch.testing.assert_close(y, a * b.sigmoid())
    assert torch.equal(mean, before)
