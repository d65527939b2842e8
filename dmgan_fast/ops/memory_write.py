"""Memory writing: checks, and the choice of a backend.

Saved for backward: the inputs and the results. Under autocast it computes in float32: the maps are tiny, and casting
ten parameters would cost more than it saves.
"""

from __future__ import annotations

from torch import Tensor

from dmgan_fast import reference
from dmgan_fast.contract import MEMORY_WRITE, is_autocast
from dmgan_fast.ops import _backends, _custom_op
from dmgan_fast.reference.memory_write import MemoryWeights


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
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Write words into memory and project it to keys and values (paper, section 3.1.1).

    ``g_w = sigmoid(A w_i + B mean(h))``, ``m_i = g_w relu(M_w w_i) + (1 - g_w) relu(M_r mean(h))``,
    ``k_i = relu(K m_i)``, ``v_i = relu(V m_i)``.

    Args:
        words: ``[B, D, T]``.
        image_mean: ``[B, C]``, the mean of the image features over pixels.
        gate_word, gate_image: ``[D]`` and ``[C]``, the rows A and B of the writing gate.
        word_weight, word_bias: ``[2C, D]``, ``[2C]``.
        image_weight, image_bias: ``[2C, C]``, ``[2C]``.
        key_weight, key_bias, value_weight, value_bias: ``[C, 2C]``, ``[C]`` each.
        backend: see ``dmgan_fast.functional``.

    Returns:
        key and value, ``[B, C, T]`` each.

    Raises:
        InputError: for shapes, dtypes or devices that do not fit.
        BackendError: if the backend asked for can't run.
    """
    weights = MemoryWeights(
        gate_word,
        gate_image,
        word_weight,
        word_bias,
        image_weight,
        image_bias,
        key_weight,
        key_bias,
        value_weight,
        value_bias,
    )
    chosen = _backends.choose(MEMORY_WRITE, backend, words, MEMORY_WRITE.check(words, image_mean, *weights))
    if chosen == "reference":
        return reference.memory_write(words, image_mean, weights)
    inputs = [words, image_mean, *weights]
    if is_autocast(words):
        inputs = [tensor.float() for tensor in inputs]
    key, value = _forward(*inputs, chosen)
    return key, value


_forward = _custom_op.define(MEMORY_WRITE)
