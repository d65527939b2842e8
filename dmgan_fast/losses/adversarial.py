"""Adversarial losses on logits (DM-GAN, equations 9 to 12): conditional and unconditional, BCE with logits.

D: (real + conditional real) / 2 + (fake + conditional fake + conditional wrong) / 3;   G: unconditional + conditional
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmgan_fast.contract import require_tensors, without_autocast
from dmgan_fast.errors import InputError, require_number
from dmgan_fast.layouts import at_least_float32
from dmgan_fast.losses.damsm import damsm_losses
from dmgan_fast.modules import Discriminator


def _judged_real(logits: Tensor) -> Tensor:
    return -F.logsigmoid(at_least_float32(logits))  # BCE with logits, target 1


def _judged_fake(logits: Tensor) -> Tensor:
    return F.softplus(at_least_float32(logits))  # BCE with logits, target 0


def discriminator_loss(discriminator: Discriminator, real: Tensor, fake: Tensor, sentence: Tensor) -> Tensor:
    """Loss of one discriminator; a scalar.

    Args:
        discriminator: called through ``features`` and ``logits``, in the order of the authors' code.
        real, fake: ``[B, 3, S, S]`` in [-1, 1]; no gradient flows into ``fake``.
        sentence: ``[B, D]``. Wrong pairs are image i with sentence i + 1; a batch of one has none, so the fake
            terms are then averaged over two instead of three.

    Raises:
        InputError: if the batches differ in size.
    """
    require_tensors("discriminator_loss", real=real, fake=fake, sentence=sentence)
    if not all(each.dim() for each in (real, fake, sentence)):
        raise InputError(
            "discriminator_loss: real and fake must be [B, 3, S, S] and sentence [B, D], "
            f"got {list(real.shape)}, {list(fake.shape)} and {list(sentence.shape)}"
        )
    size = len(sentence)
    if not len(real) == len(fake) == size:
        raise InputError(
            f"discriminator_loss: real, fake and sentence differ in size: {len(real)}, {len(fake)}, {size}"
        )
    return discriminator_loss_of(discriminator, sentence, size, real=real, fake=fake, wrong_sentence=sentence[1:])


def discriminator_loss_of(
    discriminator: Discriminator,
    sentence: Tensor,
    batch: int,
    *,
    real: Tensor | None = None,
    fake: Tensor | None = None,
    wrong_sentence: Tensor | None = None,
) -> Tensor:
    """The part of ``discriminator_loss`` that some images of a batch have; a scalar.

    Over all images it adds up to the whole, part by part, so that one graph is freed before the next is built.

    Args:
        sentence: ``[b, D]``, of ``b`` images in a row.
        batch: images in the whole batch.
        real, fake: ``[b, 3, S, S]``; one of them may be left out.
        wrong_sentence: of real images, the sentences of the following ones ``[b, D]``; one less at the end of the
            batch.
    """
    # In the order of the authors' code, for networks that change on every forward.
    of_real = None if real is None else discriminator.features(real)
    of_fake = None if fake is None else discriminator.features(fake.detach())
    logits, halves, thirds, terms = discriminator.logits, 2 * batch, batch * (3 if batch > 1 else 2), []
    if of_real is not None:
        terms.append(_judged_real(logits(of_real, sentence)).sum() / halves)
    if of_fake is not None:
        terms.append(_judged_fake(logits(of_fake, sentence)).sum() / thirds)
    if of_real is not None and wrong_sentence is not None and len(wrong_sentence):
        wrong = _judged_fake(logits(of_real[: len(wrong_sentence)], wrong_sentence))
        terms.append(wrong.sum() / (3 * (batch - 1)))
    if of_real is not None:
        terms.append(_judged_real(logits(of_real)).sum() / halves)
    if of_fake is not None:
        terms.append(_judged_fake(logits(of_fake)).sum() / thirds)
    return sum(terms[1:], terms[0])


class Targets(NamedTuple):
    """Of the logits of a loss: -1 where they should be large, 1 where small; and their parts of
    the loss."""

    signs: Tensor
    parts: Tensor

    @classmethod
    def of(cls, pairs: int, wrong: int, batch: int, like: Tensor) -> Targets:
        """For so many pairs of images and wrong sentences of a ``batch``, on the device of ``like``."""
        real, fake = 1 / (2 * batch), 1 / (batch * (3 if batch > 1 else 2))
        pieces = [(pairs, -1.0, real), (pairs, 1.0, fake), (wrong, 1.0, 1 / (3 * (batch - 1)) if wrong else 0.0)]
        pieces += pieces[:2]
        dtype = torch.promote_types(like.dtype, torch.float32)

        def joined(place: int) -> Tensor:
            filled = [like.new_full((piece[0],), piece[place], dtype=dtype) for piece in pieces]
            return torch.cat(filled)

        return cls(joined(1), joined(2))

    @classmethod
    def all_real(cls, batch: int, like: Tensor) -> Targets:
        """Of the logits of the generated images of a ``batch``, with and without sentences, in the generator's loss."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        return cls(*(like.new_full((2 * batch,), value, dtype=dtype) for value in (-1.0, 1 / batch)))


def joint_logits(discriminator: Discriminator, real: Tensor, fake: Tensor, sentences: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of real and generated images in one pass through each network: with ``sentences``, which are those of the
    real images, of the generated ones, and wrong ones of the first real images; and without.

    For a discriminator whose judgement of an image depends on no other image: one without batch norm, whose spectral
    norms do not iterate in between. It keeps both halves for backward at once.
    """
    features = discriminator.features(torch.cat((real, fake.detach())))
    pairs = torch.cat((features, features[: len(sentences) - len(features)]))
    return discriminator.logits(pairs, sentences), discriminator.logits(features)


def losses_of(logits: Tensor, targets: Targets) -> Tensor:
    """Of the logits of K discriminators in a row, the loss of each ``[K]``."""
    with without_autocast(logits):
        terms = F.softplus(logits.view(-1, len(targets.signs)) * targets.signs)  # in the type of the signs
        found: Tensor = terms @ targets.parts
    return found


def joint_discriminator_loss(
    discriminator: Discriminator,
    real: Tensor,
    fake: Tensor,
    sentence: Tensor,
    wrong_sentence: Tensor,
    targets: Targets,
) -> Tensor:
    """``discriminator_loss_of`` real and generated images by ``joint_logits``; a scalar, the same sum."""
    sentences = torch.cat((sentence, sentence, wrong_sentence))
    return losses_of(torch.cat(joint_logits(discriminator, real, fake, sentences)), targets)[0]


def image_logits(discriminator: Discriminator, images: Tensor, sentence: Tensor) -> tuple[Tensor, Tensor]:
    """With their sentences, and without."""
    features = discriminator.features(images)
    return discriminator.logits(features, sentence), discriminator.logits(features)


def generator_adversarial_loss(discriminator: Discriminator, fake: Tensor, sentence: Tensor) -> Tensor:
    """Unconditional + conditional loss of generated images ``[B, 3, S, S]`` under one discriminator; a scalar."""
    logits = torch.cat(image_logits(discriminator, fake, sentence))
    return F.logsigmoid(at_least_float32(logits)).sum() / -len(fake)


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
        discriminators, fakes: one for each resolution, smallest first; images ``[B, 3, S, S]``.
        sentence, words: ``[B, D]``, ``[B, D, T]``; ``lengths``, ``class_ids``: ``[B]``.
        image_encoder: DAMSM encoder for the last image; not called if None or ``damsm_weight`` is 0.
        damsm_weight: the paper's lambda.

    Returns:
        the scalar total, and its parts as detached scalars: ``adversarial_<resolution>``, ``words``, ``sentence``.

    Raises:
        InputError: if there is not one discriminator for each image.
    """
    if len(discriminators) != len(fakes):
        raise InputError(f"generator_loss: {len(discriminators)} discriminators for images of {len(fakes)} resolutions")
    require_number("generator_loss", "damsm_weight", damsm_weight, least=0)
    named: dict[str, Any] = {f"fakes[{k}]": fake for k, fake in enumerate(fakes)}
    require_tensors("generator_loss", sentence=sentence, **named)
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
