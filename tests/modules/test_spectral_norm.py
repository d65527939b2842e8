"""Spectral norm: the largest singular value, its iterations, and weights that are held."""

import copy

import pytest
import torch

from dmgan_fast.modules import Discriminator, DiscriminatorConfig
from dmgan_fast.modules.spectral_norm import SpectralNormConv2d, hold_weights


@pytest.mark.parametrize("mode", ["paper", "official"])
def test_spectral_norm_gives_unit_largest_singular_value(mode):
    torch.manual_seed(0)
    conv = SpectralNormConv2d(4, 6, 3, mode=mode).double()
    for _ in range(200):
        weight = conv.normalized_weight()
    assert abs(torch.linalg.matrix_norm(weight.flatten(1), 2).item() - 1) < 1e-6


def test_spectral_norm_iterates_as_its_mode_says():
    images, moved = torch.randn(2, 4, 8, 8), {}
    for mode in ("paper", "official"):
        conv = SpectralNormConv2d(4, 6, 3, mode=mode)
        for case in ("training", "frozen", "evaluation"):
            conv.train(case != "evaluation").requires_grad_(case != "frozen")
            before = conv.u.clone()
            conv(images)
            moved[mode, case] = not torch.equal(before, conv.u)
    assert moved == {
        ("paper", "training"): True,
        ("paper", "frozen"): False,
        ("paper", "evaluation"): False,
        ("official", "training"): True,
        ("official", "frozen"): True,
        ("official", "evaluation"): True,
    }


@pytest.mark.parametrize("side", [64, 256])
def test_held_spectral_norms_give_the_gradients_of_normalised_weights(side):
    torch.manual_seed(0)
    plain = Discriminator(DiscriminatorConfig(image_size=side, base_channels=2, sentence_channels=4)).double()
    for name, parameter in plain.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    held = copy.deepcopy(plain)
    pictures, sentence = torch.randn(2, 2, 3, side, side).double(), torch.randn(2, 4).double()
    plain(torch.cat(tuple(pictures)), torch.cat((sentence, sentence))).exp().sum().backward()
    for parameter in held.parameters():
        parameter.grad = torch.ones_like(parameter)  # gradients are added to what is there
    with hold_weights(held):
        for each in pictures:
            held(each, sentence).exp().sum().backward()
    for (name, ours), theirs in zip(held.named_parameters(), plain.parameters(), strict=True):
        if theirs.grad is not None:
            torch.testing.assert_close(ours.grad - 1, theirs.grad, rtol=1e-9, atol=1e-12, msg=name)
    for ours, theirs in zip(held.buffers(), plain.buffers(), strict=True):
        assert torch.equal(ours, theirs)


def test_sigma_is_positive_before_any_iteration():
    torch.manual_seed(0)
    pictures, sentence = torch.randn(2, 3, 64, 64), torch.randn(2, 4)
    discriminator = Discriminator(DiscriminatorConfig(image_size=64, base_channels=2, sentence_channels=4)).eval()
    discriminator, pictures, sentence = discriminator.double(), pictures.double(), sentence.double()
    convs = [*discriminator.down, discriminator.joint]
    assert min(conv.u.dot(conv.weight.flatten(1).mv(conv.v)) for conv in convs) < 0
    with hold_weights(discriminator):
        assert min(conv.held.inverse for conv in convs) > 0
        held = discriminator(pictures, sentence)
    torch.testing.assert_close(held, discriminator(pictures, sentence), rtol=1e-9, atol=0)


def judged_under_autocast(dtype, seed):
    """Features and logits: in float64, and with normalised weights and with held norms under autocast."""
    torch.manual_seed(seed)
    discriminator = Discriminator(DiscriminatorConfig(image_size=256, base_channels=2, sentence_channels=4))
    with torch.no_grad():
        for conv in discriminator.down:  # a product of sigmas far beyond what float16 can hold
            conv.weight.mul_(1000)
    discriminator.train()(torch.randn(1, 3, 256, 256), torch.randn(1, 4))  # sigma is one of an iteration
    discriminator.eval()
    pictures, sentence = torch.randn(2, 3, 256, 256), torch.randn(2, 4)

    def judge(discriminator, pictures, sentence):
        features = discriminator.features(pictures)
        return [features.double(), discriminator.logits(features, sentence).double()]

    truth = judge(copy.deepcopy(discriminator).double(), pictures.double(), sentence.double())
    with torch.autocast("cpu", dtype):
        plain = judge(discriminator, pictures, sentence)
        with hold_weights(discriminator):
            held = judge(discriminator, pictures, sentence)
    return truth, plain, held


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_held_spectral_norms_judge_the_same_under_autocast(dtype):
    """Within 1.5 times eager's own error, as root mean squares over 8192 features and 32 logits."""
    runs = [judged_under_autocast(dtype, seed) for seed in range(16)]
    for what in (0, 1):
        truth, plain, held = (torch.cat([run[how][what].flatten() for run in runs]) for how in (0, 1, 2))
        size, of_plain, of_held = (each.square().mean().sqrt() for each in (truth, plain - truth, held - truth))
        assert of_held <= 1.5 * of_plain
        assert of_plain <= 2 * torch.finfo(dtype).eps * size
