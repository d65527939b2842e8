"""Spectral norms that are held: in both layouts, of weights some of which are frozen, and rounded in one go."""

import copy

import pytest
import torch

from dmgan_fast.modules import Discriminator, DiscriminatorConfig
from dmgan_fast.modules.spectral_norm import hold_weights


def discriminator(seed=0):
    torch.manual_seed(seed)
    made = Discriminator(DiscriminatorConfig(image_size=128, base_channels=2, sentence_channels=4))
    for name, parameter in made.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return made


def gradients(model, images, sentence, **options):
    with hold_weights(model, **options):
        model(images, sentence).float().square().sum().backward()
    return [parameter.grad for parameter in model.parameters()]


def test_held_norms_in_channels_last_are_those_of_nchw():
    plain = discriminator().double()
    last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    images, sentence = torch.randn(2, 3, 128, 128).double(), torch.randn(2, 4).double()
    for _ in range(2):  # the second goes on from vectors that the first has stored
        for model in (plain, last):
            model.zero_grad()
            with hold_weights(model):
                model(images, sentence).exp().sum().backward()
            with hold_weights(model.requires_grad_(False)):  # reads them, and iterates no more
                model(images, sentence)
            model.requires_grad_(True)
        for (name, ours), theirs in zip(last.state_dict().items(), plain.state_dict().values(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14, msg=name)
        for ours, theirs in zip(last.parameters(), plain.parameters(), strict=True):
            if theirs.grad is not None:
                torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12)
                assert ours.grad.stride() == ours.stride(), "an optimiser would copy it"


def test_a_frozen_weight_among_others_does_not_iterate():
    model = discriminator()
    model.down[1].weight.requires_grad_(False)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with hold_weights(model):
        model(torch.randn(2, 3, 128, 128), torch.randn(2, 4)).sum().backward()
    moved = {name.rpartition(".")[0] for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])}
    assert moved == {"down.0", "down.2", "down.3", "down.4", "narrow.0", "joint"}
    assert model.down[1].weight.grad is None
    assert model.down[1].bias.grad is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_that_are_rounded_in_one_go_learn_no_worse(dtype):
    """Against float64, at most 1.5 times the error of rounding by autocast, over all parameters of some models."""
    errors = {True: 0.0, False: 0.0}
    for seed in range(4):
        start = discriminator(seed)
        images, sentence = torch.randn(4, 3, 128, 128), torch.randn(4, 4)
        truth = gradients(copy.deepcopy(start).double(), images.double(), sentence.double())
        for once in errors:
            with torch.autocast("cpu", dtype):
                found = gradients(copy.deepcopy(start), images, sentence, once=once)
            assert {gradient.dtype for gradient in found if gradient is not None} == {torch.float32}
            pairs = [(a, b) for a, b in zip(found, truth, strict=True) if b is not None]
            errors[once] += sum(((a - b).norm() / b.norm()).square().item() for a, b in pairs)
    assert 0 < errors[True] ** 0.5 <= 1.5 * errors[False] ** 0.5


def test_rounded_weights_reach_convolutions_as_they_are(monkeypatch):
    seen = set()
    conv2d = torch.nn.functional.conv2d

    def watched(x, weight, bias, *others, **options):
        seen.add((weight.dtype, bias.dtype))
        return conv2d(x, weight, bias, *others, **options)

    monkeypatch.setattr(torch.nn.functional, "conv2d", watched)
    model = discriminator()
    with torch.autocast("cpu", torch.bfloat16), hold_weights(model, once=True):
        model(torch.randn(2, 3, 128, 128), torch.randn(2, 4))
    assert seen == {(torch.bfloat16, torch.bfloat16)}, "autocast has nothing left to round"
    assert not any(getattr(module, "held", None) for module in model.modules())
