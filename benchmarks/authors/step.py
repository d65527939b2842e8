"""A whole training step as the authors' code takes it, on copies of our models' weights.

The same operations in the same order, in our own words: up-sampled tensors, `cat(h, h)`, batch norm and GLU apart, a
power iteration on every forward, sigmoids with BCE, one graph over all losses, gradients of discriminators that
nobody reads, values read on the host. Source: DM-GAN's published PyTorch code.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn import functional as F
from torch.profiler import record_function

from benchmarks import authors
from benchmarks.precision import autocast
from dmgan_fast.contract import without_autocast
from dmgan_fast.modules import Discriminator, Generator
from dmgan_fast.modules.blocks import ResidualBlock, UpBlock
from dmgan_fast.modules.generator import RefinementStage
from dmgan_fast.modules.spectral_norm import SpectralNormConv2d
from dmgan_fast.training import Batch, StepConfig

MEMORY = ("gate_word", "gate_image", "word_weight", "word_bias", "image_weight", "image_bias", "key_weight")
MEMORY += ("key_bias", "value_weight", "value_bias", "response_weight", "response_bias")


# ------------------------------------------------------------------------------------------------------- generator


def batch_norm(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    if norm.training:
        norm.num_batches_tracked.add_(1)
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.training, 0.1, norm.eps)


def glu(x: Tensor) -> Tensor:
    half = x.shape[1] // 2
    return x[:, :half] * torch.sigmoid(x[:, half:])


def up_block(block: UpBlock, x: Tensor) -> Tensor:
    x = F.interpolate(x, scale_factor=2, mode="nearest")
    return glu(batch_norm(block.norm, F.conv2d(x, block.conv.weight, padding=1)))


def residual_block(block: ResidualBlock, x: Tensor) -> Tensor:
    y = glu(batch_norm(block.norm1, F.conv2d(x, block.conv1.weight, padding=1)))
    y = batch_norm(block.norm2, F.conv2d(y, block.conv2.weight, padding=1))
    y += x
    return y


def refine(stage: RefinementStage, h: Tensor, words: Tensor, padding_mask: Tensor) -> Tensor:
    weights = {name: getattr(stage.memory, name) for name in MEMORY}
    h = authors.memory_path(h, words, padding_mask, **weights)
    x = torch.cat((h, h), 1)
    for block in stage.residual_blocks:
        x = residual_block(block, x)
    return up_block(stage.up_block, x)


def generate(
    generator: Generator, noise: Tensor, sentence: Tensor, words: Tensor, padding_mask: Tensor, eps: Tensor
) -> tuple[list[Tensor], Tensor, Tensor]:
    mu, logvar = glu(generator.conditioning.projection(sentence)).chunk(2, 1)
    condition = eps * logvar.mul(0.5).exp() + mu
    first = generator.initial_stage
    x = F.linear(torch.cat((condition, noise), 1), first.projection.weight)
    h = glu(batch_norm(first.norm, x[:, :, None, None])).view(-1, first.seed_channels, 4, 4)
    for block in first.up_blocks:
        h = up_block(block, h)
    images = []
    for k, head in enumerate(generator.image_heads):
        if k:
            h = refine(generator.stages[k - 1], h, words, padding_mask)
        images.append(torch.tanh(F.conv2d(h, head.conv.weight, padding=1)))
    return images, mu, logvar


# --------------------------------------------------------------------------------------------------- discriminators


def spectral_conv(conv: SpectralNormConv2d, x: Tensor) -> Tensor:
    with without_autocast(x):
        weight = normalised(conv)
    return F.conv2d(x, weight, conv.bias, conv.stride, conv.padding)


def normalised(conv: SpectralNormConv2d) -> Tensor:
    weight = conv.weight
    matrix = weight.flatten(1)
    with torch.no_grad():
        v = matrix.t().mv(conv.u)
        v = v / (v.norm() + 1e-12)
        u = matrix.mv(v)
        u = u / (u.norm() + 1e-12)
    conv.u.copy_(u)
    conv.v.copy_(v)
    sigma = u.dot(matrix.mv(v))
    return weight / sigma.expand_as(weight)


def features(discriminator: Discriminator, images: Tensor) -> Tensor:
    x = images
    for conv in (*discriminator.down, *discriminator.narrow):
        x = F.leaky_relu(spectral_conv(conv, x), 0.2, inplace=True)
    return x


def judge(discriminator: Discriminator, x: Tensor, sentence: Tensor | None = None) -> Tensor:
    if sentence is None:
        return _probabilities(discriminator.unconditional_head(x))
    spread = sentence.view(len(sentence), -1, 1, 1).repeat(1, 1, 4, 4)
    x = F.leaky_relu(spectral_conv(discriminator.joint, torch.cat((x, spread), 1)), 0.2, inplace=True)
    return _probabilities(discriminator.conditional_head(x))


def _probabilities(logits: Tensor) -> Tensor:
    """In float32 at least: BCE of probabilities refuses sixteen bits."""
    return torch.sigmoid(logits.to(torch.promote_types(logits.dtype, torch.float32))).view(-1)


def _bce(probabilities: Tensor, target: Tensor) -> Tensor:
    with without_autocast(probabilities):
        return F.binary_cross_entropy(probabilities, target)


def discriminator_loss(discriminator: Discriminator, real: Tensor, fake: Tensor, sentence: Tensor) -> Tensor:
    size = len(sentence)
    ones, zeros = sentence.new_ones(size), sentence.new_zeros(size)
    real_features, fake_features = features(discriminator, real), features(discriminator, fake.detach())
    conditional_real = _bce(judge(discriminator, real_features, sentence), ones)
    conditional_fake = _bce(judge(discriminator, fake_features, sentence), zeros)
    wrong = judge(discriminator, real_features[: size - 1], sentence[1:])
    conditional_wrong = _bce(wrong, zeros[1:])
    real_logits, fake_logits = judge(discriminator, real_features), judge(discriminator, fake_features)
    loss = (_bce(real_logits, ones) + conditional_real) / 2.0
    loss = loss + (_bce(fake_logits, zeros) + conditional_fake + conditional_wrong) / 3.0
    real_logits.mean().item(), fake_logits.mean().item()  # logged at every step
    return loss


def damsm_loss(encoder: nn.Module, image: Tensor, batch: Batch, config: StepConfig) -> Tensor:
    regions, code = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in encoder(image))
    same = torch.zeros(len(code), len(code), dtype=torch.bool, device=code.device)
    if batch.class_ids is not None:
        same = (batch.class_ids[:, None] == batch.class_ids) & ~torch.eye(len(code), dtype=torch.bool).to(same.device)
    labels = torch.arange(len(code), device=code.device)
    with without_autocast(code):
        return _matching(regions, code, same, labels, batch, config)


def _matching(regions: Tensor, code: Tensor, same: Tensor, labels: Tensor, batch: Batch, config: StepConfig) -> Tensor:
    lengths = batch.lengths.tolist()
    similarity = authors.words_similarity(regions, batch.words, lengths, config.gamma1, config.gamma2)
    norms = code.norm(2, 1, keepdim=True) @ batch.sentence.norm(2, 1, keepdim=True).t()
    cosine = code @ batch.sentence.t() / norms.clamp(min=1e-8)
    total = torch.zeros((), device=code.device, dtype=code.dtype)
    for scores in (similarity * config.gamma3, cosine * config.gamma3):
        scores = scores.masked_fill(same, -torch.inf)
        part = F.cross_entropy(scores, labels) + F.cross_entropy(scores.t(), labels)
        part.item()
        total = total + part * config.damsm_weight
    return total


class AuthorsStep:
    """The authors' trainer loop, one iteration a call; arguments as ``TrainStep``'s.

    It trains copies of the models, or, with ``copies=False``, the models themselves. ``precision``: of
    ``benchmarks.precision``; in sixteen bits networks run under autocast, and losses, which refuse it, in float32.
    """

    def __init__(
        self,
        generator: Generator,
        discriminators: Sequence[Discriminator],
        encoder: nn.Module,
        config: StepConfig,
        *,
        copies: bool = True,
        precision: str = "fp32",
    ) -> None:
        self.device, self.precision = next(generator.parameters()).device.type, precision
        self.generator = copy.deepcopy(generator) if copies else generator
        self.discriminators = [copy.deepcopy(d) if copies else d for d in discriminators]
        self.encoder, self.config = encoder.eval().requires_grad_(False), config
        self.average = [p.detach().clone() for p in self.generator.parameters()]
        self.optimizer = torch.optim.Adam(
            self.generator.parameters(), lr=config.generator_learning_rate, betas=config.betas
        )
        self.optimizers = [
            torch.optim.Adam(d.parameters(), lr=config.discriminator_learning_rate, betas=config.betas)
            for d in self.discriminators
        ]
        scale = precision == "fp16"
        self.scaler = GradScaler(self.device, enabled=scale)
        self.scalers = [GradScaler(self.device, enabled=scale) for _ in self.discriminators]
        self.begin: Callable[[], None] = lambda: None
        self.generate: Any = generate
        self.features: Any = features
        self.encoder_call: Any = self.encoder

    def compile(self, mode: str | None = None) -> None:
        """The generator, the discriminators' trunks and the encoder under ``torch.compile``, in a mode of it."""
        self.generate, self.features = torch.compile(generate, mode=mode), torch.compile(features, mode=mode)
        self.encoder_call = torch.compile(self.encoder, mode=mode)
        if mode is not None:
            self.begin = torch.compiler.cudagraph_mark_step_begin  # results of the last call are let go of

    def __call__(self, batch: Batch, *, noise: Tensor, eps: Tensor) -> dict[str, Tensor]:
        self.begin()
        with autocast(self.device, self.precision):
            return self._step(batch, noise, eps)

    def _learn(self, loss: Tensor, optimizer: torch.optim.Optimizer, scaler: GradScaler) -> None:
        with without_autocast(loss):
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()

    def _step(self, batch: Batch, noise: Tensor, eps: Tensor) -> dict[str, Tensor]:
        losses = {}
        with record_function("draw"):
            images, mu, logvar = self.generate(
                self.generator, noise, batch.sentence, batch.words, batch.padding_mask, eps
            )
        for discriminator, optimizer, scaler, real, fake in zip(
            self.discriminators, self.optimizers, self.scalers, batch.images, images, strict=True
        ):
            with record_function(f"discriminator_{fake.shape[-1]}"):
                discriminator.zero_grad(set_to_none=False)
                loss = discriminator_loss(discriminator, real, fake, batch.sentence)
                self._learn(loss, optimizer, scaler)
            losses[f"discriminator_{fake.shape[-1]}"] = loss.detach()
        self.generator.zero_grad(set_to_none=False)
        ones = batch.sentence.new_ones(len(batch.sentence))
        total = torch.zeros((), device=ones.device, dtype=ones.dtype)
        for discriminator, fake in zip(self.discriminators, images, strict=True):
            with record_function(f"adversarial_{fake.shape[-1]}"):
                x = self.features(discriminator, fake)
                part = _bce(judge(discriminator, x, batch.sentence), ones)
                part = part + _bce(judge(discriminator, x), ones)
            part.item()
            total = total + part
        with record_function("damsm"):
            total = total + damsm_loss(self.encoder_call, images[-1], batch, self.config)
        conditioning = -0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).mean()
        total = total + conditioning
        conditioning.item()
        with record_function("generator"):
            self._learn(total, self.optimizer, self.scaler)
            for live, average in zip(self.generator.parameters(), self.average, strict=True):
                average.mul_(0.999).add_(live.data, alpha=0.001)
        return losses | {"generator": total.detach()}
