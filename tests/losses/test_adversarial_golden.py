"""Losses of discriminators and generator against results of the authors' own code, in float64."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dmgan_fast import compat, losses

RELATIVE = 1e-9


def close(actual, expected):
    assert actual.shape == expected.shape
    error = ((actual - expected).abs().max() / expected.abs().max()).item()
    assert error <= RELATIVE, f"relative error {error:.3e}"


class StubEncoder(nn.Module):
    """The image encoder of the golden arrays."""

    def __init__(self, arrays):
        super().__init__()
        self.weights = {name: arrays[f"w/enc/{name}"].double() for name in STUB_WEIGHTS}

    def forward(self, images):
        pooled = F.adaptive_avg_pool2d(images, 17)
        regions = F.conv2d(pooled, self.weights["region.weight"], self.weights["region.bias"])
        flat = F.adaptive_avg_pool2d(images, 2).flatten(1)
        return regions, F.linear(flat, self.weights["code.weight"], self.weights["code.bias"])


STUB_WEIGHTS = ("region.weight", "region.bias", "code.weight", "code.bias")


def discriminators(inputs):
    for side in (64, 128):
        prefix = f"w/D{side}/"
        state = {k.removeprefix(prefix): v.double() for k, v in inputs.items() if k.startswith(prefix)}
        yield side, compat.import_discriminator(state, spectral_norm="official").train()


def check(state, expected, prefix):
    keys = [key for key in expected if key.startswith(prefix)]
    assert keys
    for key in keys:
        close(state[key.removeprefix(prefix)], expected[key])


def gradients(model):
    for parameter in model.parameters():
        parameter.data.copy_(parameter.grad)  # the exporter then names gradients as the authors name weights
    return compat.export_discriminator(model)


def image(inputs, name):
    return inputs[f"in/{name}"].double() / 128


def test_discriminator_losses_states_and_gradients(golden):
    inputs, expected = golden("dg_losses_s0_inputs"), golden("dg_losses_s0_f64")
    sentence = inputs["in/sent_emb"].double()
    for side, model in discriminators(inputs):
        loss = losses.discriminator_loss(
            model, image(inputs, f"real{side}"), image(inputs, f"fake{side}").requires_grad_(), sentence
        )
        close(loss, expected[f"official/d{side}/loss"])
        close(loss, expected[f"cleansn/d{side}/loss"])
        check(compat.export_discriminator(model), expected, f"official/d{side}/state_after/")
        loss.backward()
        grads = gradients(model)
        check(grads, expected, f"cleansn/d{side}/grad_w/")
        # heads and biases are not reached by the authors' in-place change of u and v
        for key, value in expected.items():
            name = key.removeprefix(f"official/d{side}/grad_w/")
            if name != key and name.startswith(("UNCOND", "COND_DNET.outlogits")):
                close(grads[name], value)


def test_generator_loss_and_states(golden):
    inputs, expected = golden("dg_losses_s0_inputs"), golden("dg_losses_s0_f64")
    sentence = inputs["in/sent_emb"].double()
    models = []
    for side, model in discriminators(inputs):
        with torch.no_grad():  # the golden order: both discriminator losses come first and move u and v
            losses.discriminator_loss(model, image(inputs, f"real{side}"), image(inputs, f"fake{side}"), sentence)
        models.append(model)
    fakes = [image(inputs, f"fake{side}").requires_grad_() for side in (64, 128)]
    total, parts = losses.generator_loss(
        models,
        fakes,
        sentence,
        image_encoder=StubEncoder(inputs),
        words=inputs["in/words_emb"].double(),
        lengths=inputs["in/cap_lens"],
        class_ids=inputs["in/class_ids"],
        damsm_weight=5.0,
    )
    close(total, expected["official/g/loss"])
    close(total, expected["cleansn/g/loss"])
    assert set(parts) == {"adversarial_64", "adversarial_128", "words", "sentence"}
    assert not any(part.requires_grad for part in parts.values())
    for side, model in zip((64, 128), models, strict=True):
        check(compat.export_discriminator(model), expected, f"official/g/state_after/D{side}/")
    total.backward()
    close(fakes[0].grad, expected["official/g/grad_fake64"])
    close(fakes[1].grad.flatten(2)[..., ::5], expected["official/g/grad_fake128_sub5"])


@pytest.mark.parametrize("size", [1, 3])
def test_discriminator_loss_is_the_formula_of_the_paper(size):
    """Written with sigmoid and BCELoss, as the authors do; a batch of one has no wrong pair and two fake terms."""
    from dmgan_fast.modules import Discriminator, DiscriminatorConfig

    torch.manual_seed(0)
    config = DiscriminatorConfig(image_size=64, base_channels=2, sentence_channels=5, spectral_norm="none")
    model = Discriminator(config).double()
    real, fake = torch.randn(2, size, 3, 64, 64, dtype=torch.float64)
    sentence = torch.randn(size, 5, dtype=torch.float64)

    def bce(images, words, target):
        judged = model(images, words).sigmoid()
        return F.binary_cross_entropy(judged, torch.full_like(judged, target))

    fake_terms = [bce(fake, None, 0), bce(fake, sentence, 0)]
    if size > 1:
        fake_terms.append(bce(real[:-1], sentence[1:], 0))
    expected = (bce(real, None, 1) + bce(real, sentence, 1)) / 2 + sum(fake_terms) / len(fake_terms)
    loss = losses.discriminator_loss(model, real, fake, sentence)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
