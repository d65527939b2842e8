"""Memory writing (paper, section 3.1.1) and the key and value projections.

g_w = sigmoid(A w_i + B mean(h)),  m_i = g_w relu(M_w w_i) + (1 - g_w) relu(M_r mean(h)),
k_i = relu(K m_i),  v_i = relu(V m_i)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class MemoryWeights(NamedTuple):
    """The parameters of writing, for C image and D word channels."""

    gate_word: Tensor  # A [D]
    gate_image: Tensor  # B [C]
    word_weight: Tensor  # M_w [2C, D]
    word_bias: Tensor  # [2C]
    image_weight: Tensor  # M_r [2C, C]
    image_bias: Tensor  # [2C]
    key_weight: Tensor  # K [C, 2C]
    key_bias: Tensor  # [C]
    value_weight: Tensor  # V [C, 2C]
    value_bias: Tensor  # [C]


def memory_write(words: Tensor, image_mean: Tensor, weights: MemoryWeights) -> tuple[Tensor, Tensor]:
    """Words ``[B, D, T]`` and ``mean(h) [B, C]`` → key and value ``[B, C, T]``."""
    words_last = words.transpose(1, 2)  # [B, T, D]
    gate = torch.sigmoid(words_last @ weights.gate_word + (image_mean @ weights.gate_image)[:, None])  # [B, T]
    written = torch.relu(words_last @ weights.word_weight.t() + weights.word_bias)  # [B, T, 2C]
    image = torch.relu(image_mean @ weights.image_weight.t() + weights.image_bias)  # [B, 2C]
    memory = gate[..., None] * written + (1 - gate[..., None]) * image[:, None]
    key = torch.relu(memory @ weights.key_weight.t() + weights.key_bias)  # [B, T, C]
    value = torch.relu(memory @ weights.value_weight.t() + weights.value_bias)
    return key.transpose(1, 2), value.transpose(1, 2)
