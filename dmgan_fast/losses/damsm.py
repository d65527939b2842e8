"""DAMSM losses (AttnGAN, section 3.2): match images and captions of a batch, by words and by sentence.

P(caption j | image i) = softmax_j(gamma3 R_ij), and the same the other way round; off-diagonal pairs of one class
do not count. Both losses are cross entropies of the diagonal.

Of a batch that several processes hold (``share``), each computes the rows of its own images against the captions of
all; rows are gathered, and all have the loss of the whole batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmgan_fast import functional
from dmgan_fast.contract import require_tensor, require_tensors, without_autocast
from dmgan_fast.errors import InputError, require_number
from dmgan_fast.layouts import at_least_float32
from dmgan_fast.parallel import Share

COSINE_EPS = 1e-8  # the authors' clamp of the product of norms


def words_loss(
    regions: Tensor,
    words: Tensor,
    lengths: Tensor,
    class_ids: Tensor | None = None,
    *,
    gamma1: float = 4.0,
    gamma2: float = 5.0,
    gamma3: float = 10.0,
    share: Share | None = None,
) -> tuple[Tensor, Tensor]:
    """Words loss.

    Args:
        regions: ``[B, D, H, W]`` of the image encoder.
        words: ``[B, D, T]``; ``lengths [B]``.
        class_ids: ``[B]``; two samples of one class are not held against each other. None: all differ.
        share: all of these are this process's rows of a batch. Gradients of the loss by what one process has add up to
            the whole batch's over processes: parameters that all have need the sum.

    Returns:
        ``(image_to_text, text_to_image)``, two scalars, of the whole batch; 0 for a batch of one.

    Raises:
        InputError: for shapes, dtypes or devices that do not fit.
    """
    scores = _words_scores(regions, words, lengths, (gamma1, gamma2, gamma3), share)
    (both,) = _match("words_loss", [scores], class_ids, share)
    return both


def _words_scores(
    regions: Tensor, words: Tensor, lengths: Tensor, gammas: tuple[float, float, float], share: Share | None
) -> Tensor:
    """``gamma3 R`` ``[B, B]``, checked."""
    gamma1, gamma2, gamma3 = gammas
    require_tensors("words_loss", regions=regions, words=words)
    require_tensors("words_loss", "integers", lengths=lengths)
    require_number("words_loss", "gamma3", gamma3, least=0)
    if not regions.dim() or not words.dim():
        raise InputError(
            "words_loss: regions must be [B, D, H, W] and words [B, D, T], "
            f"got {list(regions.shape)} and {list(words.shape)}"
        )
    if len(regions) != len(words):
        raise InputError(f"words_loss: regions and words differ in batch size: {len(regions)} and {len(words)}")
    if share is not None:
        words, lengths = share.gather(words), share.gather(lengths)
    with without_autocast(regions):
        similarity = functional.words_similarity(
            at_least_float32(regions), at_least_float32(words), lengths, gamma1=gamma1, gamma2=gamma2
        )
    return gamma3 * similarity


def sentence_loss(
    codes: Tensor,
    sentences: Tensor,
    class_ids: Tensor | None = None,
    *,
    gamma3: float = 10.0,
    share: Share | None = None,
) -> tuple[Tensor, Tensor]:
    """Sentence loss of image codes and sentences, ``[B, D]`` each; the rest and the result as in ``words_loss``."""
    (both,) = _match("sentence_loss", [_sentence_scores(codes, sentences, gamma3, share)], class_ids, share)
    return both


def _sentence_scores(codes: Tensor, sentences: Tensor, gamma3: float, share: Share | None) -> Tensor:
    """``gamma3 * cos`` ``[B, B]``, checked."""
    require_tensors("sentence_loss", codes=codes, sentences=sentences)
    require_number("sentence_loss", "gamma3", gamma3, least=0)
    if codes.dim() != 2 or codes.shape != sentences.shape:
        raise InputError(
            "sentence_loss: codes and sentences must both be [B, D], "
            f"got {list(codes.shape)} and {list(sentences.shape)}"
        )
    if codes.device != sentences.device:
        raise InputError(f"sentence_loss: sentences is on {sentences.device}, codes is on {codes.device}")
    codes, sentences = at_least_float32(codes), at_least_float32(sentences)
    if codes.dtype != sentences.dtype:
        raise InputError(f"sentence_loss: sentences is {sentences.dtype}, codes is {codes.dtype}")
    if share is not None:
        sentences = share.gather(sentences)
    with without_autocast(codes):
        norms: Tensor = codes.norm(dim=1)[:, None] * sentences.norm(dim=1)
        similarity: Tensor = codes @ sentences.t() / norms.clamp(min=COSINE_EPS)
    return gamma3 * similarity


class WordsLoss(nn.Module):
    """``words_loss`` as a module: ``loss(regions, words, lengths, class_ids)``."""

    def __init__(self, *, gamma1: float = 4.0, gamma2: float = 5.0, gamma3: float = 10.0) -> None:
        super().__init__()
        self.gamma1, self.gamma2, self.gamma3 = gamma1, gamma2, gamma3

    def extra_repr(self) -> str:
        return f"gamma1={self.gamma1}, gamma2={self.gamma2}, gamma3={self.gamma3}"

    def forward(
        self, regions: Tensor, words: Tensor, lengths: Tensor, class_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        gammas: Any = {"gamma1": self.gamma1, "gamma2": self.gamma2, "gamma3": self.gamma3}
        return words_loss(regions, words, lengths, class_ids, **gammas)


class SentenceLoss(nn.Module):
    """``sentence_loss`` as a module: ``loss(codes, sentences, class_ids)``."""

    def __init__(self, *, gamma3: float = 10.0) -> None:
        super().__init__()
        self.gamma3 = gamma3

    def extra_repr(self) -> str:
        return f"gamma3={self.gamma3}"

    def forward(self, codes: Tensor, sentences: Tensor, class_ids: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return sentence_loss(codes, sentences, class_ids, gamma3=self.gamma3)


def damsm_losses(
    regions: Tensor,
    codes: Tensor,
    sentence: Tensor,
    words: Tensor,
    lengths: Tensor,
    class_ids: Tensor | None = None,
    gamma1: float = 4.0,
    gamma2: float = 5.0,
    gamma3: float = 10.0,
    share: Share | None = None,
) -> dict[str, Tensor]:
    """``"words"`` and ``"sentence"``: both directions of ``words_loss`` and of ``sentence_loss`` added up; scalars."""
    of_words = _words_scores(regions, words, lengths, (gamma1, gamma2, gamma3), share)
    of_sentence = _sentence_scores(codes, sentence, gamma3, share)
    by_words, by_sentence = _match("damsm_losses", [of_words, of_sentence], class_ids, share)
    return {"words": by_words[0] + by_words[1], "sentence": by_sentence[0] + by_sentence[1]}


def _match(
    name: str, scores: list[Tensor], class_ids: Tensor | None, share: Share | None = None
) -> list[tuple[Tensor, Tensor]]:
    """Of each of the ``scores [B, B]`` (row: image), cross entropies of the diagonal, over captions and over images.

    With a share, scores and class_ids are some rows of them.
    """
    if class_ids is not None and share is not None and tuple(class_ids.shape) == (len(scores[0]),):
        class_ids = share.gather(class_ids)
    if share is not None:
        scores = [share.gather_alike(each) for each in scores]
    size, device = len(scores[0]), scores[0].device
    labels = torch.arange(size, device=device)
    both = torch.stack([way for each in scores for way in (each, each.t())])  # [2 S, B, B]
    if class_ids is not None:
        require_tensor(name, "class_ids", class_ids, "any")
        if tuple(class_ids.shape) != (size,):
            raise InputError(f"{name}: class_ids must be [{size}], got {list(class_ids.shape)}")
        if class_ids.device != device:
            raise InputError(f"{name}: class_ids is on {class_ids.device}, the features are on {device}")
        require_tensor(name, "class_ids", class_ids, "integers")
        same_class = class_ids[:, None] == class_ids
        both = both.masked_fill(same_class.fill_diagonal_(False), -torch.inf)
    losses = (
        F.cross_entropy(both.flatten(0, 1), labels.repeat(len(both)), reduction="none").view(-1, size).mean(1).unbind()
    )
    return [(losses[k], losses[k + 1]) for k in range(0, len(losses), 2)]
