"""The gradients of memory writing by PyTorch's own matrix products: cuBLAS's on a GPU, where a fused kernel has too few
words to fill the GPU.

    g_w = sigmoid(A w_i + B mean(h)),  m_i = g_w relu(M_w w_i) + (1 - g_w) relu(M_r mean(h)),
    k_i = relu(K m_i),  v_i = relu(V m_i)
"""

from __future__ import annotations

import torch
from torch import Tensor


def relu_backward(grad: Tensor, result: Tensor) -> Tensor:
    """Gradient of relu's argument; where the result is NaN, the gradient passes, as in autograd's."""
    passed: Tensor = torch.ops.aten.threshold_backward(grad, result, 0)
    return passed


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

    key_rows = relu_backward(grad_key, key).transpose(1, 2).flatten(0, 1)  # [B T, C]
    value_rows = relu_backward(grad_value, value).transpose(1, 2).flatten(0, 1)
    grad_memory = torch.addmm(key_rows @ key_weight, value_rows, value_weight).view(batch, length, -1)
    through_gate = (grad_memory * difference).sum(2, keepdim=True)
    grad_gate: Tensor = torch.ops.aten.sigmoid_backward(through_gate, gate)  # of the sigmoid's argument
    grad_written = relu_backward(gate * grad_memory, written).flatten(0, 1)
    grad_image = relu_backward(((1 - gate) * grad_memory).sum(1, keepdim=True), image).flatten(0, 1)
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
