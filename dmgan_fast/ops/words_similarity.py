"""Words similarity of all images and captions: checks, and the choice of a backend.

Saved for backward: the inputs and the scores ``[B, B']``. Under autocast it computes in float32: exponents of scores
and cosines near 1 do not survive in half precision.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dmgan_fast import reference
from dmgan_fast.contract import WORDS_SIMILARITY, is_autocast, without_autocast
from dmgan_fast.errors import require_number
from dmgan_fast.ops import _backends, _custom_op


def words_similarity(
    regions: Tensor, words: Tensor, lengths: Tensor, *, gamma1: float, gamma2: float, backend: str | None = None
) -> Tensor:
    """Matching score of every image with every caption (AttnGAN, equations 7 to 10), before gamma3.

    Args:
        regions: ``[B, D, H, W]``.
        words: ``[B', D, T]``.
        lengths: ``[B']`` integers, on the same device; words beyond a caption's length do not count.
        gamma1: sharpness of the attention over regions, 0 or more.
        gamma2: sharpness of the maximum over words, 0 or more.
        backend: see ``dmgan_fast.functional``.

    Returns:
        ``[B, B']``: ``log sum_i exp(gamma2 cos(c_i, w_i))``.

    Raises:
        InputError: for shapes, dtypes or devices that do not fit.
        BackendError: if the backend asked for can't run.
    """
    sizes = WORDS_SIMILARITY.check(regions, words, lengths)
    require_number("words_similarity", "gamma1", gamma1, least=0)
    require_number("words_similarity", "gamma2", gamma2, least=0)
    if is_autocast(regions) and regions.dtype != torch.float64:
        regions, words = regions.float(), words.float()
    with without_autocast(regions):
        chosen = _backends.choose(WORDS_SIMILARITY, backend, regions, sizes)
        if chosen == "reference":
            return reference.words_similarity(regions, words, lengths, gamma1=gamma1, gamma2=gamma2)
        scores: Tensor = _forward(regions.flatten(2), words, lengths, gamma1, gamma2, chosen)
    return scores.to(regions.dtype)


_forward = _custom_op.define(WORDS_SIMILARITY)
