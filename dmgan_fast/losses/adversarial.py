"""Adversarial losses on logits (DM-GAN, equations 9 to 12): conditional and unconditional, BCE with logits.

D: (real + conditional real) / 2 + (fake + conditional fake + conditional wrong) / 3;   G: unconditional + conditional
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmgan_fast.errors import InputError
from dmgan_fast.losses.damsm import sentence_loss, words_loss
from dmgan_fast.modules import Discriminator


def _judged_real(logits: Tensor) -> Tensor:
    return F.softplus(-logits.float() if logits.dtype.itemsize < 4 else -logits).mean()  # BCE with logits, target 1


def _judged_fake(logits: Tensor) -> Tensor:
    return F.softplus(logits.float() if logits.dtype.itemsize < 4 else logits).mean()  # BCE with logits, target 0


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
    real_terms = [_judged_real(discriminator.logits(real_features, sentence))]
    fake_terms = [_judged_fake(discriminator.logits(fake_features, sentence))]
    if size > 1:
        fake_terms.append(_judged_fake(discriminator.logits(real_features[:-1], sentence[1:])))
    real_terms.append(_judged_real(discriminator.logits(real_features)))
    fake_terms.append(_judged_fake(discriminator.logits(fake_features)))
    return torch.stack(real_terms).mean() + torch.stack(fake_terms).mean()


def generator_adversarial_loss(discriminator: Discriminator, fake: Tensor, sentence: Tensor) -> Tensor:
    """Unconditional + conditional loss of drawn pictures ``[B, 3, S, S]`` under one discriminator; a scalar."""
    features = discriminator.features(fake)
    conditional = _judged_real(discriminator.logits(features, sentence))
    return conditional + _judged_real(discriminator.logits(features))


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
        gammas = {"gamma1": gamma1, "gamma2": gamma2, "gamma3": gamma3}
        parts["words"] = sum(words_loss(regions, words, lengths, class_ids, **gammas), torch.zeros_like(total))
        parts["sentence"] = sum(sentence_loss(codes, sentence, class_ids, gamma3=gamma3), torch.zeros_like(total))
        total = total + damsm_weight * (parts["words"] + parts["sentence"])
    return total, {name: part.detach() for name, part in parts.items()}
