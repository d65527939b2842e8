"""Losses of generator and discriminators."""

import copy

import pytest
import torch

from dmgan_fast import losses
from dmgan_fast.losses.adversarial import Targets, discriminator_loss, joint_discriminator_loss
from dmgan_fast.modules import Discriminator, DiscriminatorConfig
from dmgan_fast.modules.spectral_norm import hold_weights
from tests.losses.small import B, D, codes, discriminator, inputs


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_extreme_logits_stay_finite():
    class Certain:
        def features(self, images):
            return images.mean((1, 2, 3))

        def logits(self, features, sentence=None):
            return (features + 1) * 200

    fake, sentence = torch.zeros(B, 3, 8, 8, requires_grad=True), torch.zeros(B, D)
    generator = losses.generator_adversarial_loss(Certain(), fake - 2, sentence)
    generator.backward()
    assert generator.item() == 400  # a sigmoid and a clamped log would stop at 200 and give no gradient
    assert (fake.grad != 0).all()
    assert losses.discriminator_loss(Certain(), fake - 2, fake, sentence).item() == pytest.approx(200 + 400 / 3)


def test_order_of_forwards_is_the_authors():
    calls = []

    class Spy:
        def features(self, images):
            calls.append(("features", images.mean().item()))
            return images

        def logits(self, features, sentence=None):
            calls.append(("logits", features.mean().item(), None if sentence is None else sentence.mean().item()))
            return features.mean((1, 2, 3))

    real, fake, sentence = torch.full((2, 3, 4, 4), 1.0), torch.full((2, 3, 4, 4), 2.0), torch.tensor([[3.0], [5.0]])
    losses.discriminator_loss(Spy(), real, fake, sentence)
    assert calls == [
        ("features", 1.0),
        ("features", 2.0),
        ("logits", 1.0, 4.0),
        ("logits", 2.0, 4.0),
        ("logits", 1.0, 5.0),  # wrong pair: picture 0 with sentence 1
        ("logits", 1.0, None),
        ("logits", 2.0, None),
    ]


def test_no_gradient_of_the_discriminator_loss_reaches_the_generator():
    fake = torch.randn(2, 3, 64, 64, dtype=torch.float64, requires_grad=True)
    sentence = torch.randn(2, D, dtype=torch.float64)
    losses.discriminator_loss(discriminator(), torch.randn_like(fake), fake, sentence).backward()
    assert fake.grad is None


def test_generator_loss_is_the_sum_of_its_parts():
    models = [discriminator().eval(), discriminator(128).eval()]
    fakes = [torch.randn(B, 3, side, side, dtype=torch.float64) for side in (64, 128)]
    regions, words, lengths = inputs()
    image, sentence = codes()
    seen = []

    def encoder(pictures):
        seen.append(pictures)
        return regions, image

    arguments = {"words": words, "lengths": lengths, "class_ids": torch.tensor([0, 1, 0, 2])}
    total, parts = losses.generator_loss(models, fakes, sentence, image_encoder=encoder, damsm_weight=3.0, **arguments)
    by_words = sum(losses.words_loss(regions, words, lengths, arguments["class_ids"]))
    by_sentence = sum(losses.sentence_loss(image, sentence, arguments["class_ids"]))
    judged = [losses.generator_adversarial_loss(m, f, sentence) for m, f in zip(models, fakes, strict=True)]
    torch.testing.assert_close(total, sum(judged) + 3 * (by_words + by_sentence))
    torch.testing.assert_close(parts["words"], by_words.detach())
    torch.testing.assert_close(parts["adversarial_128"], judged[1].detach())
    assert seen == [fakes[-1]]  # the last picture only
    without, parts = losses.generator_loss(models, fakes, sentence, image_encoder=None, **arguments)
    torch.testing.assert_close(without, sum(judged))
    assert set(parts) == {"adversarial_64", "adversarial_128"}


# ----------------------------------------------------------------------------------------------------- both in one pass


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
        found = joint_discriminator_loss(
            one, real, fake, sentence, sentence[1:], Targets.of(size, size - 1, size, sentence)
        )
        found.backward()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    for (name, ours), theirs in zip(one.named_parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12, msg=name)


def test_targets_weigh_every_term_as_the_paper_does():
    signs, parts = Targets.of(4, 3, 4, torch.zeros(1))
    real, fake, wrong, real_alone, fake_alone = parts.split([4, 4, 3, 4, 4])
    assert signs.tolist() == [-1] * 4 + [1] * 7 + [-1] * 4 + [1] * 4
    for part, share in ((real, 1 / 2), (real_alone, 1 / 2), (fake, 1 / 3), (fake_alone, 1 / 3), (wrong, 1 / 3)):
        assert part.sum().item() == pytest.approx(share)


def test_the_loss_of_one_pass_is_float32_in_sixteen_bits():
    discriminator = Discriminator(DiscriminatorConfig(image_size=64, base_channels=2, sentence_channels=4))
    images, sentence = torch.randn(2, 3, 64, 64), torch.randn(2, 4)
    with torch.autocast("cpu", torch.bfloat16):
        loss = joint_discriminator_loss(
            discriminator, images, images, sentence, sentence[1:], Targets.of(2, 1, 2, sentence)
        )
    assert loss.dtype == torch.float32
