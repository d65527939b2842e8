"""The training step against a plain loop in the order of the authors' trainer."""

import ast
import copy
import inspect
from collections import Counter

import pytest
import torch
from torch.nn import functional as F

from dmgan_fast.errors import InputError
from dmgan_fast.modules import (
    Discriminator,
    DiscriminatorConfig,
    Generator,
    GeneratorConfig,
    ImageEncoder,
    ImageEncoderConfig,
    padding_mask,
)
from dmgan_fast.modules.spectral_norm import SpectralNormConv2d
from dmgan_fast.runs.config import StepConfig
from dmgan_fast.runs.policy import MemoryPolicy
from dmgan_fast.training import batch, optimisers
from dmgan_fast.training import step as step_module
from dmgan_fast.training.batch import Batch
from dmgan_fast.training.step import TrainStep

SIDES = (64, 128, 256)


def models(sides=SIDES, mode="official", dtype=torch.float64, attngan=False):
    torch.manual_seed(3)
    generator = Generator(
        GeneratorConfig(
            image_sizes=sides,
            base_channels=2,
            word_channels=8,
            condition_channels=4,
            noise_channels=4,
            residual_blocks=1,
            mask_mode=mode,
            refinement="attention" if attngan else "memory",
        )
    )
    norm = {"spectral_norm": "none", "batch_norm": True} if attngan else {"spectral_norm": mode}
    discriminators = [
        Discriminator(DiscriminatorConfig(image_size=s, base_channels=2, sentence_channels=8, **norm)) for s in sides
    ]
    encoder = ImageEncoder(ImageEncoderConfig(kind="compact", channels=8, image_size=64, base_channels=2)).eval()
    return generator.to(dtype), [d.to(dtype) for d in discriminators], encoder.to(dtype)


def batch_of(step, sides=SIDES, size=3, dtype=torch.float64):
    draw = torch.Generator().manual_seed(100 + step)
    words, lengths = 5, torch.tensor([5, 3, 2])[:size]
    images = [torch.rand(size, 3, s, s, generator=draw, dtype=dtype) * 2 - 1 for s in sides]
    features = torch.randn(size, 8, words, generator=draw, dtype=dtype)
    mask = padding_mask(lengths, words)
    return Batch(
        images=images,
        words=features.masked_fill(mask[:, None], 0),
        sentence=torch.randn(size, 8, generator=draw, dtype=dtype),
        padding_mask=mask,
        lengths=lengths,
        class_ids=torch.tensor([1, 2, 1])[:size],
    ), {
        "noise": torch.randn(size, 4, generator=draw, dtype=dtype),
        "eps": torch.randn(size, 4, generator=draw, dtype=dtype),
    }


def bce(logits, target):
    return F.binary_cross_entropy(torch.sigmoid(logits), torch.full_like(logits, target))


def plain_damsm(encoder, image, batch):
    """Words and sentence losses, a Python loop over captions as the authors write them; gammas 4, 5, 10."""
    regions, code = encoder(image)
    size = len(code)
    same = (batch.class_ids[:, None] == batch.class_ids) & ~torch.eye(size, dtype=torch.bool)
    columns = []
    for i in range(size):
        length = int(batch.lengths[i])
        word = batch.words[i, :, :length].expand(size, -1, -1)  # [B, D, L]
        context = regions.flatten(2)  # [B, D, N]
        attention = F.softmax(context.transpose(1, 2) @ word, 2)  # [B, N, L] over words
        attention = F.softmax(4.0 * attention.transpose(1, 2), 2)  # [B, L, N] over regions
        weighted = context @ attention.transpose(1, 2)  # [B, D, L]
        columns.append(torch.log(torch.exp(5.0 * F.cosine_similarity(word, weighted, dim=1, eps=1e-8)).sum(1)))
    scores = (10.0 * torch.stack(columns, 1)).masked_fill(same, -torch.inf)
    labels = torch.arange(size)
    words_loss = F.cross_entropy(scores, labels) + F.cross_entropy(scores.t(), labels)
    scores = 10.0 * F.cosine_similarity(code[:, None], batch.sentence[None], dim=2, eps=1e-8)
    scores = scores.masked_fill(same, -torch.inf)
    return words_loss + F.cross_entropy(scores, labels) + F.cross_entropy(scores.t(), labels)


def plain_step(generator, discriminators, encoder, optimizers, average, batch, noise):
    fake, _, mu, logvar, _ = generator(
        noise["noise"], batch.sentence, batch.words, batch.padding_mask, eps=noise["eps"]
    )
    for k, discriminator in enumerate(discriminators):
        optimizers[k].zero_grad()
        real_features, fake_features = discriminator.features(batch.images[k]), discriminator.features(fake[k].detach())
        cond_real = bce(discriminator.logits(real_features, batch.sentence), 1.0)
        cond_fake = bce(discriminator.logits(fake_features, batch.sentence), 0.0)
        cond_wrong = bce(discriminator.logits(real_features[:-1], batch.sentence[1:]), 0.0)
        real, fake_loss = bce(discriminator.logits(real_features), 1.0), bce(discriminator.logits(fake_features), 0.0)
        ((real + cond_real) / 2 + (fake_loss + cond_fake + cond_wrong) / 3).backward()
        optimizers[k].step()
    optimizers[-1].zero_grad()
    total = 0.0
    for k, discriminator in enumerate(discriminators):
        features = discriminator.features(fake[k])
        total = (
            total + bce(discriminator.logits(features, batch.sentence), 1.0) + bce(discriminator.logits(features), 1.0)
        )
    total = total + 5.0 * plain_damsm(encoder, fake[-1], batch)
    total = total - 0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).mean()
    total.backward()
    optimizers[-1].step()
    with torch.no_grad():
        for mean, parameter in zip(average, generator.parameters(), strict=True):
            mean.mul_(0.999).add_(0.001 * parameter)
    return total.detach()


@pytest.mark.parametrize("attngan", [False, True], ids=["DM-GAN", "AttnGAN"])
def test_ten_steps_equal_the_authors_order_of_operations(attngan):
    generator, discriminators, encoder = models(attngan=attngan)
    step = TrainStep(
        copy.deepcopy(generator), copy.deepcopy(discriminators), encoder, StepConfig(average_buffers=False)
    )
    optimizers = [torch.optim.Adam(m.parameters(), lr=2e-4, betas=(0.5, 0.999)) for m in (*discriminators, generator)]
    average = [p.detach().clone() for p in generator.parameters()]
    for k in range(10):
        batch, noise = batch_of(k)
        expected = plain_step(generator, discriminators, encoder, optimizers, average, batch, noise)
        losses = step(batch, **noise)
        assert abs(losses["generator"] - expected) < 1e-8 * abs(expected)
    for ours, theirs in zip((step.generator, *step.discriminators), (generator, *discriminators), strict=True):
        for key, value in theirs.state_dict().items():
            assert (ours.state_dict()[key] - value).abs().max() <= 1e-8 * value.abs().max().clamp(min=1e-2), key
    for ours, mean in zip(step.average.module.parameters(), average, strict=True):
        assert (ours - mean).abs().max() < 1e-12
    for ours, live in zip(step.average.module.buffers(), step.generator.buffers(), strict=True):
        assert torch.equal(ours, live)


def test_losses_are_detached_and_named_by_side():
    generator, discriminators, encoder = models(sides=(64, 128), mode="paper", dtype=torch.float32)
    step = TrainStep(generator, discriminators, encoder)
    batch, noise = batch_of(0, sides=(64, 128), dtype=torch.float32)
    losses = step(batch, **noise)
    assert {"discriminator_64", "discriminator_128", "conditioning", "generator"} <= losses.keys()
    assert all(not loss.requires_grad and loss.dim() == 0 and loss.isfinite() for loss in losses.values())


def test_generator_part_computes_no_discriminator_gradients():
    generator, discriminators, encoder = models(sides=(64,), mode="paper")
    step = TrainStep(generator, discriminators, encoder)
    reached = Counter()
    for name, parameter in discriminators[0].named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: reached.update([name]))
    batch, noise = batch_of(0, sides=(64,))
    step(batch, **noise)
    assert reached.keys() == dict(discriminators[0].named_parameters()).keys()
    for name, times in reached.items():  # heads: by the real and by the drawn pictures
        assert times == (2 if "head" in name else 1), name
    assert all(p.requires_grad and p.grad is None for p in discriminators[0].parameters())
    assert all(p.grad is None for p in generator.parameters())


def test_a_step_iterates_each_spectral_norm_once():
    generator, discriminators, encoder = models(sides=(64,), mode="paper")
    step = TrainStep(generator, discriminators, encoder)
    convs = [m for m in discriminators[0].modules() if isinstance(m, SpectralNormConv2d)]
    expected = []
    for conv in convs:
        matrix = conv.weight.detach().flatten(1)
        v = F.normalize(matrix.t() @ conv.u, dim=0)
        expected.append((F.normalize(matrix @ v, dim=0), v))
    batch, noise = batch_of(0, sides=(64,))
    step(batch, **noise)
    for conv, (u, v) in zip(convs, expected, strict=True):
        torch.testing.assert_close(conv.u, u, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(conv.v, v, rtol=1e-10, atol=1e-12)


def test_bad_input_is_refused_before_any_work():
    generator, discriminators, encoder = models(sides=(64, 128))
    with pytest.raises(InputError, match=r"discriminators must be for resolutions \(64, 128\)"):
        TrainStep(generator, discriminators[:1], encoder)
    with pytest.raises(InputError, match="image_encoder may be None only"):
        TrainStep(generator, discriminators, None)
    step = TrainStep(generator, discriminators, encoder)
    batch, noise = batch_of(0, sides=(64, 128))
    before = copy.deepcopy(step.state_dict())
    batch.images = batch.images[:1]
    with pytest.raises(InputError, match=r"batch\.images must be"):
        step(batch, **noise)
    batch, noise = batch_of(0, sides=(64, 128))
    batch.lengths = batch.lengths[:2]
    with pytest.raises(InputError, match=r"batch\.lengths must be \[3\], got \[2\]"):
        step(batch, **noise)
    for key, value in before["generator"].items():
        assert torch.equal(step.generator.state_dict()[key], value)
    for field, value in (("damsm_weight", -1), ("generator_learning_rate", 0), ("betas", (0.5, 1.0))):
        with pytest.raises(ValueError, match=field):
            StepConfig(**{field: value})


def test_a_step_reads_nothing_on_the_host():
    """Only loops over sides and dictionaries; no value of a tensor is waited for."""
    trees = (ast.parse(inspect.getsource(module)) for module in (step_module, batch, optimisers))
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Attribute):
            assert node.attr not in {"item", "tolist", "cpu", "numpy", "nonzero"}, node.attr
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"float", "bool", "int"}, node.func.id


# ----------------------------------------------------------------------------------------------------- both in one pass


def test_real_and_generated_images_in_one_pass_teach_what_they_do_in_turn():
    batch, noise = batch_of(0, (64, 128))
    taken = []
    for together in (False, True):
        generator, discriminators, encoder = models((64, 128), mode="paper")
        step = TrainStep(generator, discriminators, encoder, StepConfig(memory=MemoryPolicy(together=together)))
        losses = [step(batch, **noise) for _ in range(3)]
        taken.append((losses, [value for d in discriminators for value in d.state_dict().values()]))
    for theirs, ours in zip(*(losses for losses, _ in taken), strict=True):
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name], value, rtol=1e-9, atol=1e-12, msg=name)
    for theirs, ours in zip(*(weights for _, weights in taken), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_one_pass_learns_in_every_precision_what_images_in_turn_do(precision):
    """The losses of three steps; in float16 their gradients are scaled, each discriminator's by its own scale."""
    batch, noise = batch_of(0, (64, 128), dtype=torch.float32)
    found = []
    for together in (False, True):
        parts = models((64, 128), mode="paper", dtype=torch.float32)
        step = TrainStep(*parts, StepConfig(precision=precision, memory=MemoryPolicy(together=together)))
        if precision == "fp16":
            for power, scaler in enumerate((step.generator_scaler, *step.discriminator_scalers)):
                scaler._init_scale = 2.0 ** (6 + power)
        found.append([step(batch, **noise) for _ in range(3)])
    for theirs, ours in zip(*found, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            torch.testing.assert_close(
                ours[name], value, rtol=2e-3 if precision == "fp32" else 0.1, atol=0.02, msg=name
            )


@pytest.mark.parametrize("norm", ["official", "batch_norm"])
def test_one_pass_is_refused_where_images_are_not_judged_alone(norm):
    parts = models((64,), mode="official", attngan=norm == "batch_norm")
    with pytest.raises(InputError, match=r"memory\.together does not go with spectral_norm='official'"):
        TrainStep(*parts, StepConfig(memory=MemoryPolicy(together=True)))
    with pytest.raises(ValueError, match=r"memory\.together=True .* memory\.micro_batch=2 does not"):
        MemoryPolicy(together=True, micro_batch=2)
