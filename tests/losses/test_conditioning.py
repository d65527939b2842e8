"""The loss of conditioning augmentation."""

import pytest
import torch

from dmgan_fast import losses
from tests.losses.small import B, D


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_conditioning_loss_is_the_mean_divergence():
    mu, logvar = torch.randn(2, B, D, dtype=torch.float64)
    normal = torch.distributions.Normal(mu, (logvar / 2).exp())
    standard = torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(mu))
    expected = torch.distributions.kl_divergence(normal, standard).mean()
    torch.testing.assert_close(losses.conditioning_loss(mu, logvar), expected)
