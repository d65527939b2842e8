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
    batch, _, length = words.shape
    rows = words.transpose(1, 2).flatten(0, 1)  # [B T, D], one for each word
    gate = torch.sigmoid((rows @ gate_word).view(batch, length) + (image_mean @ gate_image)[:, None])
    gate = gate.view(batch, length, 1)
    written = torch.addmm(word_bias, rows, word_weight.t()).relu_().view(batch, length, -1)
    image = torch.addmm(image_bias, image_mean, image_weight.t()).relu_()[:, None]  # [B, 1, 2C]
    difference = written - image
    memory = torch.addcmul(image, gate, difference).flatten(0, 1)

    key_rows, value_rows = (_rows_of(each, result) for each, result in ((grad_key, key), (grad_value, value)))
    grad_memory = (key_rows @ key_weight).addmm_(value_rows, value_weight)  # [B T, 2C]
    through_gate = torch.bmm(grad_memory[:, None], difference.flatten(0, 1)[:, :, None])  # one product for each word
    grad_gate: Tensor = torch.ops.aten.sigmoid_backward(through_gate.view(gate.shape), gate)  # of its argument
    grad_memory = grad_memory.view(batch, length, -1)
    grad_written = relu_backward(gate * grad_memory, written).flatten(0, 1)
    grad_image = relu_backward(torch.bmm((1 - gate).transpose(1, 2), grad_memory), image).flatten(0, 1)
    word_gates, image_gates = grad_gate.flatten(), grad_gate.sum((1, 2))
    grad_words = gate_word[:, None] * word_gates.view(batch, 1, length)  # [B, D, T], as it has to lie
    return (
        grad_words.baddbmm_(word_weight.t().expand(batch, -1, -1), _by_sample(grad_written, batch)),
        (image_gates[:, None] * gate_image).addmm_(grad_image, image_weight),
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


def _by_sample(rows: Tensor, batch: int) -> Tensor:
    """``[B T, C]`` as ``[B, C, T]``, a view."""
    return rows.view(batch, -1, rows.shape[1]).transpose(1, 2)


def _rows_of(grad: Tensor, result: Tensor) -> Tensor:
    """``relu_backward [B, C, T]`` as rows ``[B T, C]``, one for each word, which it is written into."""
    batch, channels, length = result.shape
    rows = grad.new_empty(batch * length, channels)
    torch.ops.aten.threshold_backward.grad_input(grad, result, 0, grad_input=_by_sample(rows, batch))
    return rows
