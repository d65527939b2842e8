"""Adversarial losses on logits (DM-GAN, equations 9 to 12): conditional and unconditional, BCE with logits.

D: (real + conditional real) / 2 + (fake + conditional fake + conditional wrong) / 3;   G: unconditional + conditional
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmgan_fast.errors import InputError
from dmgan_fast.losses.damsm import damsm_losses
from dmgan_fast.modules import Discriminator


def _judged_real(logits: Tensor) -> Tensor:
    return F.softplus(-logits.float() if logits.dtype.itemsize < 4 else -logits)  # BCE with logits, target 1


def _judged_fake(logits: Tensor) -> Tensor:
    return F.softplus(logits.float() if logits.dtype.itemsize < 4 else logits)  # BCE with logits, target 0


def discriminator_loss(discriminator: Discriminator, real: Tensor, fake: Tensor, sentence: Tensor) -> Tensor:
    """Loss of one discriminator; a scalar.

    Args:
        discriminator: called through ``features`` and ``logits``, in the order of the authors' code.
        real, fake: ``[B, 3, S, S]`` in [-1, 1]; no gradient flows into ``fake``.
        sentence: ``[B, D]``. Wrong pairs are picture i with sentence i + 1; a batch of one has none, so the fake
            terms are then averaged over two instead of three.

    Raises:
        InputError: if the batches differ in size.
    """
    size = len(sentence)
    if not len(real) == len(fake) == size:
        raise InputError(
            f"discriminator_loss: real, fake and sentence differ in size: {len(real)}, {len(fake)}, {size}"
        )
    real_features = discriminator.features(real)
    fake_features = discriminator.features(fake.detach())
    real_terms = [_judged_real(discriminator.logits(real_features, sentence)).mean()]
    fake_terms = [_judged_fake(discriminator.logits(fake_features, sentence)).mean()]
    if size > 1:
        fake_terms.append(_judged_fake(discriminator.logits(real_features[:-1], sentence[1:])).mean())
    real_terms.append(_judged_real(discriminator.logits(real_features)).mean())
    fake_terms.append(_judged_fake(discriminator.logits(fake_features)).mean())
    return torch.stack(real_terms).mean() + torch.stack(fake_terms).mean()


def discriminator_loss_of_real(
    discriminator: Discriminator, real: Tensor, sentence: Tensor, wrong_sentence: Tensor, batch: int
) -> Tensor:
    """The part of ``discriminator_loss`` that some real pictures of a batch have; a scalar.

    With ``discriminator_loss_of_drawn`` it adds up to the whole loss, part by part, so that one graph is freed before
    the next is built.

    Args:
        real: ``[b, 3, S, S]``, ``b`` pictures in a row; ``sentence [b, D]``.
        wrong_sentence: ``[b, D]``, those of the following pictures; one less at the end of the batch.
        batch: pictures in the whole batch.
    """
    features = discriminator.features(real)
    right = _judged_real(discriminator.logits(features, sentence)).sum()
    right = right + _judged_real(discriminator.logits(features)).sum()
    loss = right / (2 * batch)
    if len(wrong_sentence):
        wrong = _judged_fake(discriminator.logits(features[: len(wrong_sentence)], wrong_sentence)).sum()
        loss = loss + wrong / (3 * (batch - 1))
    return loss


def discriminator_loss_of_drawn(discriminator: Discriminator, fake: Tensor, sentence: Tensor, batch: int) -> Tensor:
    """The part of ``discriminator_loss`` that some drawn pictures ``[b, 3, S, S]`` of a batch have; a scalar."""
    features = discriminator.features(fake.detach())
    fooled = _judged_fake(discriminator.logits(features, sentence)).sum()
    fooled = fooled + _judged_fake(discriminator.logits(features)).sum()
    return fooled / (batch * (3 if batch > 1 else 2))


def generator_adversarial_loss(discriminator: Discriminator, fake: Tensor, sentence: Tensor) -> Tensor:
    """Unconditional + conditional loss of drawn pictures ``[B, 3, S, S]`` under one discriminator; a scalar."""
    features = discriminator.features(fake)
    conditional = _judged_real(discriminator.logits(features, sentence))
    return (conditional + _judged_real(discriminator.logits(features))).mean()


def generator_loss(
    discriminators: Sequence[Discriminator],
    fakes: Sequence[Tensor],
    sentence: Tensor,
    *,
    image_encoder: nn.Module | None,
    words: Tensor,
    lengths: Tensor,
    class_ids: Tensor | None = None,
    damsm_weight: float = 5.0,
    gamma1: float = 4.0,
    gamma2: float = 5.0,
    gamma3: float = 10.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of the generator without the conditioning term.

    Args:
        discriminators, fakes: one for each side, smallest first; pictures ``[B, 3, S, S]``.
        sentence, words: ``[B, D]``, ``[B, D, T]``; ``lengths``, ``class_ids``: ``[B]``.
        image_encoder: DAMSM encoder for the last picture; not called if None or ``damsm_weight`` is 0.
        damsm_weight: the paper's lambda.

    Returns:
        the scalar total, and its parts as detached scalars: ``adversarial_<side>``, ``words``, ``sentence``.

    Raises:
        InputError: if there is not one discriminator for each picture.
    """
    if len(discriminators) != len(fakes):
        raise InputError(f"generator_loss: {len(discriminators)} discriminators for {len(fakes)} sides")
    parts = {
        f"adversarial_{fake.shape[-1]}": generator_adversarial_loss(discriminator, fake, sentence)
        for discriminator, fake in zip(discriminators, fakes, strict=True)
    }
    total = torch.stack(list(parts.values())).sum()
    if image_encoder is not None and damsm_weight:
        regions, codes = image_encoder(fakes[-1])
        matching = damsm_losses(regions, codes, sentence, words, lengths, class_ids, gamma1, gamma2, gamma3)
        parts |= matching
        total = total + damsm_weight * (matching["words"] + matching["sentence"])
    return total, {name: part.detach() for name, part in parts.items()}
