"""Matching score of every image with every caption (AttnGAN, equations 7 to 10; DM-GAN's DAMSM).

s = softmax over words of (region . word);  a = softmax over regions of gamma1 s;  c_i = sum_j a_ij region_j;
R = log sum_i exp(gamma2 cos(c_i, w_i)) over the caption's words
"""

from __future__ import annotations

import torch
from torch import Tensor

COSINE_EPS = 1e-8  # the authors' clamp of the product of norms


def words_similarity(regions: Tensor, words: Tensor, lengths: Tensor, *, gamma1: float, gamma2: float) -> Tensor:
    """``regions [B, D, H, W]``, ``words [B', D, T]``, ``lengths [B']`` → scores ``[B, B']``, before gamma3.

    That of a caption without words is -inf.
    """
    regions = regions.flatten(2)  # [B, D, N]
    padding = torch.arange(words.shape[2], device=words.device) >= lengths[:, None]  # [B', T]
    empty = padding.all(1)  # captions without words: -inf, and no gradient instead of NaN
    masked = padding & ~empty[:, None]
    # What padding holds must not matter, and NaN times 0 would be NaN; 1 has a cosine, which 0 has not.
    words = words.masked_fill(padding[:, None], 1)
    scores = torch.einsum("bdn,kdt->bktn", regions, words)  # [B, B', T, N]
    scores = scores.masked_fill(masked[None, :, :, None], -torch.inf)
    attention = torch.softmax(gamma1 * torch.softmax(scores, 2), 3)  # over words, then over regions
    context = torch.einsum("bktn,bdn->bktd", attention, regions)  # [B, B', T, D]
    words_last = words.transpose(1, 2)  # [B', T, D]
    product = (context * words_last).sum(3)
    norms = (context.norm(dim=3) * words_last.norm(dim=2)).clamp(min=COSINE_EPS)
    matched = (gamma2 * (product / norms)).masked_fill(masked, -torch.inf)
    return torch.logsumexp(matched, 2).masked_fill(empty, -torch.inf)
