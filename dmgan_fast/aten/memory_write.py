"""The gradients of memory writing by PyTorch's own matrix products: cuBLAS's on a GPU, where a fused kernel has too few
words to fill the GPU.

    g_w = sigmoid(A w_i + B mean(h)),  m_i = g_w relu(M_w w_i) + (1 - g_w) relu(M_r mean(h)),
    k_i = relu(K m_i),  v_i = relu(V m_i)
"""

from __future__ import annotations

import torch
from torch import Tensor


def memory_write_backward(
    grad_key: Tensor,
    grad_value: Tensor,
    key: Tensor,
    value: Tensor,
    words: Tensor,
    image_mean: Tensor,
    *weights: Tensor,
) -> tuple[Tensor, ...]:
    """Gradients of the twelve inputs, in their order; m and its parts are recomputed."""
    gate_word, gate_image, word_weight, word_bias, image_weight, image_bias, key_weight, _, value_weight, _ = weights
    batch, dimensions, length = words.shape
    rows = words.transpose(1, 2).flatten(0, 1)  # [B T, D], one for each word
    gate = torch.sigmoid((rows @ gate_word).view(batch, length) + (image_mean @ gate_image)[:, None])
    gate = gate.view(batch, length, 1)
    written = torch.addmm(word_bias, rows, word_weight.t()).relu_().view(batch, length, -1)
    image = torch.addmm(image_bias, image_mean, image_weight.t()).relu_()[:, None]  # [B, 1, 2C]
    difference = written - image
    memory = torch.addcmul(image, gate, difference).flatten(0, 1)

    key_rows = (grad_key * (key > 0)).transpose(1, 2).flatten(0, 1)  # [B T, C]
    value_rows = (grad_value * (value > 0)).transpose(1, 2).flatten(0, 1)
    grad_memory = torch.addmm(key_rows @ key_weight, value_rows, value_weight).view(batch, length, -1)
    grad_gate = (grad_memory * difference).sum(2, keepdim=True) * gate * (1 - gate)  # of the sigmoid's argument
    grad_written = (gate * grad_memory * (written > 0)).flatten(0, 1)
    grad_image = (((1 - gate) * grad_memory).sum(1, keepdim=True) * (image > 0)).flatten(0, 1)
    word_gates, image_gates = grad_gate.flatten(), grad_gate.sum((1, 2))
    grad_words = torch.addmm(word_gates[:, None] * gate_word, grad_written, word_weight)
    return (
        grad_words.view(batch, length, dimensions).transpose(1, 2).contiguous(),
        torch.addmm(image_gates[:, None] * gate_image, grad_image, image_weight),
        word_gates @ rows,
        image_gates @ image_mean,
        grad_written.t() @ rows,
        grad_written.sum(0),
        grad_image.t() @ image_mean,
        grad_image.sum(0),
        key_rows.t() @ memory,
        key_rows.sum(0),
        value_rows.t() @ memory,
        value_rows.sum(0),
    )
