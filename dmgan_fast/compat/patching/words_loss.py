"""The words loss of AttnGAN's and DM-GAN's code: a loop over captions, here one op over all pairs.

It is a function, called with (regions, words, labels, lengths, class ids, batch size); its gammas stand in the
configuration of its module.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmgan_fast import functional
from dmgan_fast.compat.patching import alike
from dmgan_fast.compat.patching.guards import takes
from dmgan_fast.compat.patching.rules import Refused

WHAT = "words loss"
NAME = "words_loss"
ARGUMENTS = ("img_features", "words_emb", "labels", "cap_lens", "class_ids", "batch_size")
Function = Callable[..., Any]


def is_candidate(function: Any) -> bool:
    """A function that has the name or the arguments of the authors'."""
    if not isinstance(function, types.FunctionType):
        return False
    arguments = tuple(inspect.signature(function).parameters)
    return arguments == ARGUMENTS or (function.__name__ == NAME and len(arguments) == len(ARGUMENTS))


def gammas_of(function: types.FunctionType) -> tuple[float, float, float] | None:
    """gamma 1 to 3 as they stand in ``cfg`` of the function's module now."""
    try:
        smooth = function.__globals__["cfg"].TRAIN.SMOOTH
        return float(smooth.GAMMA1), float(smooth.GAMMA2), float(smooth.GAMMA3)
    except (KeyError, AttributeError, TypeError):
        return None


def words_loss(
    gammas: tuple[float, float, float],
    regions: Tensor,
    words: Tensor,
    labels: Tensor | None,
    lengths: Tensor,
    class_ids: Any,
    batch_size: int,
) -> tuple[Tensor | None, Tensor | None, list[Tensor]]:
    """As the authors': image to text, text to image (None without labels), and each caption's attention on its own
    image ``[1, length, h, w]``."""
    gamma1, gamma2, gamma3 = gammas
    lengths = lengths.to(regions.device)
    scores = gamma3 * functional.words_similarity(regions, words, lengths, gamma1=gamma1, gamma2=gamma2)
    if class_ids is not None:
        ids = np.asarray(class_ids)
        same = torch.from_numpy((ids[:, None] == ids) & ~np.eye(batch_size, dtype=bool))
        scores = scores.masked_fill(same.to(scores.device), -torch.inf)
    maps = attention(regions, words, lengths, gamma1)
    if labels is None:
        return None, None, maps
    return F.cross_entropy(scores, labels), F.cross_entropy(scores.t(), labels), maps


def attention(regions: Tensor, words: Tensor, lengths: Tensor, gamma1: float) -> list[Tensor]:
    """Softmax over words, then over regions, of each image with its caption."""
    scores = torch.bmm(words.transpose(1, 2), regions.flatten(2))  # [B, T, N]
    padded = torch.arange(words.shape[2], device=words.device) >= lengths[:, None]
    over_words = scores.masked_fill(padded[:, :, None], -torch.inf).softmax(1)
    maps = (over_words * gamma1).softmax(2).unflatten(2, regions.shape[2:])
    return [each[None, :length] for each, length in zip(maps, lengths.tolist(), strict=True)]


def fast_words_loss(function: types.FunctionType) -> Function | Refused:
    """What takes the function's place, or why nothing does."""
    if gammas_of(function) is None:
        return Refused(WHAT, "its module has no cfg.TRAIN.SMOOTH with GAMMA1, GAMMA2 and GAMMA3")
    reason = _why_not(function)
    if reason:
        return Refused(WHAT, reason)
    signature = inspect.signature(function)

    @functools.wraps(function)
    def fast(*given: Any, **named: Any) -> Any:
        gammas, arguments = gammas_of(function), tuple(signature.bind(*given, **named).arguments.values())
        if gammas is None or len(arguments) != len(ARGUMENTS) or not _fits(*arguments):
            return function(*given, **named)
        return words_loss(gammas, *arguments)

    return fast


def _fits(regions: Any, words: Any, labels: Any, lengths: Any, class_ids: Any, batch_size: Any) -> bool:
    return (
        takes(regions)
        and takes(words, regions, dimensions=3)
        and isinstance(lengths, Tensor)
        and lengths.shape == (batch_size,)
        and len(regions) == len(words) == batch_size
        and regions.shape[1] == words.shape[1]
    )


def _why_not(function: types.FunctionType) -> str | None:
    batch, lengths = 3, torch.tensor([5, 2, 3], device="cpu")
    inputs = [alike.random(batch, 6, 3, 3), alike.random(batch, 6, 5, seed=3)]
    gammas = gammas_of(function)
    assert gammas is not None
    for order in ([0, 1, 2], [2, 0, 1], None):
        labels = None if order is None else torch.tensor(order, device="cpu")
        rest = (labels, lengths, None, batch)
        reason = alike.why_differ(
            nn.Module(),
            lambda _, regions, words, rest=rest: function(regions, words, *rest),
            lambda _, regions, words, rest=rest: words_loss(gammas, regions, words, *rest),
            inputs,
            modes=(True,),
        )
        if reason:
            return reason
    return None
