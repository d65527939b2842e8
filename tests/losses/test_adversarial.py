"""The discriminator's loss in one pass, against the one that takes real and generated images in turn."""

import copy

import pytest
import torch

from dmgan_fast.losses.adversarial import Targets, discriminator_loss, joint_discriminator_loss
from dmgan_fast.modules import Discriminator, DiscriminatorConfig
from dmgan_fast.modules.spectral_norm import hold_weights


@pytest.mark.parametrize("size", [1, 2, 5])
def test_one_pass_has_the_loss_and_the_gradients_of_two(size):
    torch.manual_seed(0)
    two = Discriminator(DiscriminatorConfig(image_size=64, base_channels=2, sentence_channels=4)).double()
    one = copy.deepcopy(two)
    real, fake = torch.randn(2, size, 3, 64, 64).double()
    sentence = torch.randn(size, 4).double()
    with hold_weights(two):
        expected = discriminator_loss(two, real, fake, sentence)
        expected.backward()
    with hold_weights(one):
        found = joint_discriminator_loss(one, real, fake, sentence, Targets.of(size, sentence))
        found.backward()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    for (name, ours), theirs in zip(one.named_parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12, msg=name)


def test_targets_weigh_every_term_as_the_paper_does():
    signs, parts = Targets.of(4, torch.zeros(1))
    real, fake, wrong, real_alone, fake_alone = parts.split([4, 4, 3, 4, 4])
    assert signs.tolist() == [-1] * 4 + [1] * 7 + [-1] * 4 + [1] * 4
    for part, share in ((real, 1 / 2), (real_alone, 1 / 2), (fake, 1 / 3), (fake_alone, 1 / 3), (wrong, 1 / 3)):
        assert part.sum().item() == pytest.approx(share)


def test_the_loss_of_one_pass_is_float32_in_sixteen_bits():
    discriminator = Discriminator(DiscriminatorConfig(image_size=64, base_channels=2, sentence_channels=4))
    images, sentence = torch.randn(2, 3, 64, 64), torch.randn(2, 4)
    with torch.autocast("cpu", torch.bfloat16):
        loss = joint_discriminator_loss(discriminator, images, images, sentence, Targets.of(2, sentence))
    assert loss.dtype == torch.float32
