"""Memory writing: g = sigmoid(A w + B r), m = g relu(M_w w) + (1 - g) relu(M_r r), key = relu(K m), value = relu(V m),
for the words w and the mean r of h.

One launch: a program keeps its words' rows of key and value in registers while the hidden channels of m stream through.
The backward recomputes m in one launch; what is left are plain matrix products, which are PyTorch's.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dmgan_fast.aten.memory_write import relu_backward
from dmgan_fast.kernels._common import dot_precision, program_in_2d, program_in_3d, relu

# Axes: b samples, t words, d channels D of a word, c channels C of the image, j the 2C hidden channels of m.
BT = 16  # words of a tile: the fewest that tensor cores take
BJ = 32  # hidden channels that stream through
BO = 32  # channels of key and value of one program; more programs, as there are few words


@triton.jit
def _rows(matrix, row, rows, column, columns):
    """[rows, columns] of a row-major matrix, zero outside."""
    address = matrix + row[:, None] * columns + column[None, :]
    return tl.load(address, mask=(row < rows)[:, None] & (column < columns)[None, :], other=0.0)


@triton.jit
def _transposed(matrix, row, rows, column, columns):
    """``_rows`` of the transposed matrix."""
    address = matrix + column[None, :] * rows + row[:, None]
    return tl.load(address, mask=(row < rows)[:, None] & (column < columns)[None, :], other=0.0)


@triton.jit
def _gate(words, image_mean, gate_word, gate_image, t, T, C, D: tl.constexpr, BD: tl.constexpr):
    """g [BT] of one sample."""
    logit = tl.zeros(t.shape, tl.float32)
    for d0 in range(0, D, BD):
        d = d0 + tl.arange(0, BD)
        weight = tl.load(gate_word + d, mask=d < D, other=0.0).to(tl.float32)  # [BD]
        logit += tl.sum(_transposed(words, t, T, d, D).to(tl.float32) * weight[None, :], 1)  # [BT]
    image = tl.zeros([BD], tl.float32)
    for c0 in range(0, C, BD):
        c = c0 + tl.arange(0, BD)
        weight = tl.load(gate_image + c, mask=c < C, other=0.0).to(tl.float32)  # [BD]
        image += weight * tl.load(image_mean + c, mask=c < C, other=0.0).to(tl.float32)  # [BD]
    return tl.sigmoid(logit + tl.sum(image, 0))


@triton.jit
def _written(
    words, word_weight, word_bias, t, T, j, hidden,
    D: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr, BJ: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """relu(M_w w) [BT, BJ] of one sample."""
    total = tl.zeros([BT, BJ], tl.float32)
    for d0 in range(0, D, BD):
        d = d0 + tl.arange(0, BD)
        weight = tl.trans(_rows(word_weight, j, hidden, d, D))  # [BD, BJ]
        total = tl.dot(_transposed(words, t, T, d, D), weight, total, input_precision=PRECISION)  # [BT, BJ]
    bias = tl.load(word_bias + j, mask=j < hidden, other=0.0).to(tl.float32)  # [BJ]
    return relu(total + bias[None, :])


@triton.jit
def _image(image_mean, image_weight, image_bias, j, hidden, C, BD: tl.constexpr):
    """relu(M_r r) [BJ] of one sample."""
    total = tl.load(image_bias + j, mask=j < hidden, other=0.0).to(tl.float32)  # [BJ]
    for c0 in range(0, C, BD):
        c = c0 + tl.arange(0, BD)
        mean = tl.load(image_mean + c, mask=c < C, other=0.0).to(tl.float32)  # [BD]
        total += tl.sum(_rows(image_weight, j, hidden, c, C).to(tl.float32) * mean[None, :], 1)  # [BJ]
    return relu(total)


@triton.jit(do_not_specialize=("T",))
def _forward_kernel(
    words, image_mean, gate_word, gate_image, word_weight, word_bias, image_weight, image_bias,
    key_weight, key_bias, value_weight, value_bias, key, value, T, C,
    D: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr, BJ: tl.constexpr, BO: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Program: BT words of one sample, BO channels of their key and value."""
    word_block, channel_block, b = program_in_3d(tl.cdiv(T, BT), tl.cdiv(C, BO))
    words += b * D * T
    image_mean += b * C
    t = word_block * BT + tl.arange(0, BT)
    c = channel_block * BO + tl.arange(0, BO)
    hidden = 2 * C
    g = _gate(words, image_mean, gate_word, gate_image, t, T, C, D, BD)[:, None]  # [BT, 1]
    key_block = tl.zeros([BT, BO], tl.float32)
    value_block = tl.zeros([BT, BO], tl.float32)
    for j0 in range(0, hidden, BJ):
        j = j0 + tl.arange(0, BJ)
        written = _written(words, word_weight, word_bias, t, T, j, hidden, D, BT, BD, BJ, PRECISION)  # [BT, BJ]
        image = _image(image_mean, image_weight, image_bias, j, hidden, C, BD)  # [BJ]
        memory = (g * written + (1 - g) * image[None, :]).to(key.dtype.element_ty)  # [BT, BJ]
        key_part = tl.trans(_rows(key_weight, c, C, j, hidden))  # [BJ, BO]
        value_part = tl.trans(_rows(value_weight, c, C, j, hidden))  # [BJ, BO]
        key_block = tl.dot(memory, key_part, key_block, input_precision=PRECISION)  # [BT, BO]
        value_block = tl.dot(memory, value_part, value_block, input_precision=PRECISION)  # [BT, BO]
    key_block += tl.load(key_bias + c, mask=c < C, other=0.0).to(tl.float32)[None, :]
    value_block += tl.load(value_bias + c, mask=c < C, other=0.0).to(tl.float32)[None, :]
    address = b * C * T + c[None, :] * T + t[:, None]  # [BT, BO]
    real = (t < T)[:, None] & (c < C)[None, :]  # [BT, BO]
    tl.store(key + address, relu(key_block).to(key.dtype.element_ty), mask=real)
    tl.store(value + address, relu(value_block).to(value.dtype.element_ty), mask=real)


@triton.jit(do_not_specialize=("batch", "T"))
def _backward_kernel(
    grad_key, grad_value, words, image_mean, gate_word, gate_image, word_weight, word_bias, image_weight, image_bias,
    key_weight, value_weight, memory, grad_written, grad_image, grad_gate, batch, T, C,
    D: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr, BJ: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Program: BJ hidden channels of one sample: m [T, BJ], the gradients of what both relus got, and this program's
    share of the gradient of the gate's argument [T].
    """
    hidden = 2 * C
    block, b = program_in_2d(tl.cdiv(hidden, BJ))
    words += b * D * T
    image_mean += b * C
    grad_key += b * C * T
    grad_value += b * C * T
    memory += b * T * hidden
    grad_written += b * T * hidden
    grad_gate += (block * batch + b) * T
    j = block * BJ + tl.arange(0, BJ)
    image = _image(image_mean, image_weight, image_bias, j, hidden, C, BD)  # [BJ]
    image_sum = tl.zeros([BJ], tl.float32)
    for t0 in range(0, T, BT):
        t = t0 + tl.arange(0, BT)
        g = _gate(words, image_mean, gate_word, gate_image, t, T, C, D, BD)[:, None]  # [BT, 1]
        written = _written(words, word_weight, word_bias, t, T, j, hidden, D, BT, BD, BJ, PRECISION)  # [BT, BJ]
        grad_memory = tl.zeros([BT, BJ], tl.float32)
        for c0 in range(0, C, BD):
            c = c0 + tl.arange(0, BD)
            key_part = _rows(key_weight, c, C, j, hidden)  # [BD, BJ]
            value_part = _rows(value_weight, c, C, j, hidden)  # [BD, BJ]
            grad_memory = tl.dot(_transposed(grad_key, t, T, c, C), key_part, grad_memory, input_precision=PRECISION)
            grad_memory = tl.dot(
                _transposed(grad_value, t, T, c, C), value_part, grad_memory, input_precision=PRECISION
            )
        image_sum += tl.sum((1 - g) * grad_memory, 0)  # [BJ]
        grad_g = tl.sum(grad_memory * (written - image[None, :]), 1)[:, None]  # [BT, 1]
        address = t[:, None] * hidden + j[None, :]  # [BT, BJ]
        real = (t < T)[:, None] & (j < hidden)[None, :]  # [BT, BJ]
        mixed = g * written + (1 - g) * image[None, :]  # [BT, BJ]
        tl.store(memory + address, mixed.to(memory.dtype.element_ty), mask=real)
        grad = tl.where(written <= 0, 0.0, g * grad_memory)  # [BT, BJ]
        tl.store(grad_written + address, grad.to(grad_written.dtype.element_ty), mask=real)
        tl.store(grad_gate + t[:, None], grad_g * g * (1 - g), mask=(t < T)[:, None])
    grad = tl.where(image <= 0, 0.0, image_sum)  # [BJ]
    tl.store(grad_image + b * hidden + j, grad.to(grad_image.dtype.element_ty), mask=j < hidden)


def _summed_channels(words: Tensor) -> int:
    """Channels that one product sums; exact products hold them in registers, and with more would spill."""
    return 16 if words.dtype == torch.float32 else 32


def memory_write_forward(words: Tensor, image_mean: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
    """Key and value."""
    (batch, word_channels, length), channels = words.shape, image_mean.shape[1]
    key, value = (words.new_empty((batch, channels, length)) for _ in range(2))
    _forward_kernel[(triton.cdiv(length, BT) * triton.cdiv(channels, BO) * batch,)](
        words, image_mean, *weights, key, value, length, channels,
        D=word_channels, BT=BT, BD=_summed_channels(words), BJ=BJ, BO=BO, PRECISION=dot_precision(),
    )  # fmt: skip
    return key, value


def memory_write_backward(
    grad_key: Tensor,
    grad_value: Tensor,
    key: Tensor,
    value: Tensor,
    words: Tensor,
    image_mean: Tensor,
    *weights: Tensor,
) -> tuple[Tensor, ...]:
    """Gradients of the twelve inputs, in their order."""
    gate_word, gate_image, word_weight, word_bias, image_weight, image_bias, key_weight, _, value_weight, _ = weights
    (batch, word_channels, length), channels = words.shape, image_mean.shape[1]
    hidden, blocks = 2 * channels, triton.cdiv(2 * channels, BJ)
    grad_key, grad_value = relu_backward(grad_key, key), relu_backward(grad_value, value)
    memory, grad_written = (words.new_empty((batch, length, hidden)) for _ in range(2))
    grad_image = words.new_empty((batch, hidden))
    grad_gate_parts = words.new_empty((blocks, batch, length), dtype=torch.float32)
    _backward_kernel[(blocks * batch,)](
        grad_key, grad_value, words, image_mean, gate_word, gate_image, word_weight, word_bias,
        image_weight, image_bias, key_weight, value_weight, memory, grad_written, grad_image, grad_gate_parts,
        batch, length, channels, D=word_channels, BT=BT, BD=_summed_channels(words), BJ=BJ, PRECISION=dot_precision(),
    )  # fmt: skip
    grad_gate = grad_gate_parts.sum(0).to(words.dtype)  # [B, T]
    gate_sum = grad_gate_parts.sum((0, 2)).to(words.dtype)  # [B]

    word_rows = words.transpose(1, 2).flatten(0, 1)  # [B T, D]
    written_rows, memory_rows = grad_written.flatten(0, 1), memory.flatten(0, 1)  # [B T, 2C]
    key_rows, value_rows = (grad.transpose(1, 2).flatten(0, 1) for grad in (grad_key, grad_value))  # [B T, C]
    grad_words = torch.addmm(grad_gate.flatten()[:, None] * gate_word, written_rows, word_weight)
    return (
        grad_words.view(batch, length, word_channels).transpose(1, 2).contiguous(),
        torch.addmm(gate_sum[:, None] * gate_image, grad_image, image_weight),
        grad_gate.flatten() @ word_rows,
        gate_sum @ image_mean,
        written_rows.t() @ word_rows,
        written_rows.sum(0),
        grad_image.t() @ image_mean,
        grad_image.sum(0),
        key_rows.t() @ memory_rows,
        key_rows.sum(0),
        value_rows.t() @ memory_rows,
        value_rows.sum(0),
    )
