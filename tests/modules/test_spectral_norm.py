"""Spectral norm: the largest singular value, its iterations, and weights that are held."""

import copy

import pytest
import torch

from dmgan_fast.modules import Discriminator, DiscriminatorConfig
from dmgan_fast.modules.spectral_norm import SpectralNormConv2d, hold_weights, lay_side_by_side


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


# ---------------------------------------------------------------------------------------- in both layouts, and rounded


def discriminator(seed=0):
    torch.manual_seed(seed)
    made = Discriminator(DiscriminatorConfig(image_size=128, base_channels=2, sentence_channels=4))
    return with_norms(made)


def with_norms(model):
    """A new model's weights are orthogonal, with a norm of 1, and its biases are 0."""
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.normal_(module.bias)
            with torch.no_grad():
                module.weight.mul_(torch.empty(()).uniform_(0.3, 3))
    return model


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

    def watch(name):
        function = getattr(torch.nn.functional, name)

        def watched(x, weight, bias, *others, **options):
            seen.add((name, weight.dtype, bias.dtype))
            return function(x, weight, bias, *others, **options)

        monkeypatch.setattr(torch.nn.functional, name, watched)

    watch("conv2d")
    watch("linear")
    model = discriminator()
    with torch.autocast("cpu", torch.bfloat16), hold_weights(model, once=True):
        model(torch.randn(2, 3, 128, 128), torch.randn(2, 4))
    half = (torch.bfloat16, torch.bfloat16)
    assert seen == {("conv2d", *half), ("linear", *half)}, "autocast has nothing left to round"
    assert not any(getattr(module, "held", None) for module in model.modules())


# ----------------------------------------------------------------------------------- weights of one shape, side by side


def three(seed=0):
    """Discriminators of three resolutions, which have most shapes of weights in common."""
    torch.manual_seed(seed)
    kinds = [DiscriminatorConfig(image_size=side, base_channels=2, sentence_channels=4) for side in (64, 128, 256)]
    return with_norms(torch.nn.ModuleList(map(Discriminator, kinds)))


def gradients_of_three(models, images, sentence, **options):
    """Each is differentiated apart, as a step does; the last one's joint convolution and head are not reached."""
    with hold_weights(*models, **options):
        for model, x in zip(models, images, strict=True):
            model(x, None if model is models[-1] else sentence).float().square().sum().backward()
    return {name: parameter.grad for name, parameter in models.named_parameters()}


def inputs_of_three():
    torch.manual_seed(1)
    return [torch.randn(2, 3, side, side) for side in (64, 128, 256)], torch.randn(2, 4)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_weights_side_by_side_are_the_same_parameters_and_learn_the_same(layout):
    apart = three().double().to(memory_format=layout)
    together = copy.deepcopy(apart)
    parameters = list(together.parameters())
    lay_side_by_side(*together)
    assert all(a is b for a, b in zip(parameters, together.parameters(), strict=True))
    (images, sentence) = inputs_of_three()
    images, sentence = [x.double() for x in images], sentence.double()
    for _ in range(2):
        found, expected = (gradients_of_three(models, images, sentence) for models in (together, apart))
        for name, theirs in expected.items():
            assert (theirs is None) == (found[name] is None), name
            if theirs is not None:
                torch.testing.assert_close(found[name], theirs, rtol=1e-9, atol=1e-12, msg=name)
    for (name, ours), theirs in zip(together.state_dict().items(), apart.state_dict().values(), strict=True):
        assert ours.stride() == theirs.stride()
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14, msg=name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_side_by_side_are_rounded_with_the_same_bits_and_learn_no_worse(dtype):
    images, sentence = inputs_of_three()
    truth = gradients_of_three(three().double(), [x.double() for x in images], sentence.double())
    errors = {}
    for how in ("apart", "together"):
        models = three().to(memory_format=torch.channels_last)
        if how == "together":
            lay_side_by_side(*models)
        with torch.autocast("cpu", dtype):
            found = gradients_of_three(models, images, sentence, once=True)
        reached = {name for name, gradient in found.items() if gradient is not None}
        assert reached == {name for name, gradient in truth.items() if gradient is not None}
        errors[how] = sum(((found[n] - truth[n]).norm() / truth[n].norm()).square().item() for n in reached) ** 0.5
    assert 0 < errors["together"] <= 1.2 * errors["apart"]


def test_copies_of_weights_side_by_side_are_held_like_any():
    models = three()
    lay_side_by_side(*models)
    copied = copy.deepcopy(models)
    loaded = three(seed=1)
    loaded.load_state_dict(models.state_dict())
    images, sentence = inputs_of_three()
    found = [gradients_of_three(each, images, sentence) for each in (models, copied, loaded)]
    for name, gradient in found[0].items():
        for other in found[1:]:
            if gradient is not None:
                torch.testing.assert_close(other[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_gradients_of_held_weights_are_handed_over_and_not_copied():
    model = discriminator()
    given = {}
    with hold_weights(model):
        model(torch.randn(2, 3, 128, 128), torch.randn(2, 4)).sum().backward()
        for name, conv in model.named_modules():
            if getattr(conv, "held", None) is not None:
                given[f"{name}.weight"] = conv.held.weight.grad.data_ptr()
    assert len(given) == 7
    for name, address in given.items():
        assert model.get_parameter(name).grad.data_ptr() == address
