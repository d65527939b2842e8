"""Memory writing (paper, section 3.1.1) and the key and value projections.

g_w = sigmoid(A w_i + B mean(h)),  m_i = g_w relu(M_w w_i) + (1 - g_w) relu(M_r mean(h)),
k_i = relu(K m_i),  v_i = relu(V m_i)
"""

from __future__ import annotations

import torch
from torch import Tensor


def memory_write(
    words: Tensor,
    image_mean: Tensor,
    *,
    gate_word: Tensor,
    gate_image: Tensor,
    word_weight: Tensor,
    word_bias: Tensor,
    image_weight: Tensor,
    image_bias: Tensor,
    key_weight: Tensor,
    key_bias: Tensor,
    value_weight: Tensor,
    value_bias: Tensor,
) -> tuple[Tensor, Tensor]:
    """Words ``[B, D, T]`` and ``mean(h) [B, C]`` → key and value ``[B, C, T]``."""
    words_last = words.transpose(1, 2)  # [B, T, D]
    gate = torch.sigmoid(words_last @ gate_word + (image_mean @ gate_image)[:, None])  # [B, T]
    written = torch.relu(words_last @ word_weight.t() + word_bias)  # [B, T, 2C]
    image = torch.relu(image_mean @ image_weight.t() + image_bias)  # [B, 2C]
    memory = gate[..., None] * written + (1 - gate[..., None]) * image[:, None]
    key = torch.relu(memory @ key_weight.t() + key_bias)  # [B, T, C]
    value = torch.relu(memory @ value_weight.t() + value_bias)
    return key.transpose(1, 2), value.transpose(1, 2)
