"""Memory writing: checks, custom op with fake tensors and autograd.

Saved for backward: the inputs and the results. Under autocast it computes in float32: the maps are tiny, and casting
ten parameters would cost more than it saves.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dmgan_fast import reference
from dmgan_fast.ops import _backends, _checks, _custom_op

OP = "memory_write"
PARAMETERS = (
    "gate_word",
    "gate_image",
    "word_weight",
    "word_bias",
    "image_weight",
    "image_bias",
    "key_weight",
    "key_bias",
    "value_weight",
    "value_bias",
)


def memory_write(
    words: Tensor, image_mean: Tensor, *, backend: str | None = None, **parameters: Tensor
) -> tuple[Tensor, Tensor]:
    _check(words, image_mean, parameters)
    chosen = _backends.choose(OP, backend, words, channels=image_mean.shape[1])
    if chosen == "reference":
        return reference.memory_write(words, image_mean, **parameters)
    inputs = [words, image_mean, *(parameters[name] for name in PARAMETERS)]
    if torch.is_autocast_enabled(words.device.type):
        inputs = [tensor.float() for tensor in inputs]
    key, value = _forward(*inputs, chosen)
    return key, value


def _check(words: Tensor, image_mean: Tensor, parameters: dict[str, Tensor]) -> None:
    _checks.shape(OP, "words", words, ("B", "D", "T"))
    batch, word_channels, _ = words.shape
    _checks.shape(OP, "image_mean", image_mean, (batch, "C"))
    channels = image_mean.shape[1]
    expected: dict[str, tuple[int, ...]] = {
        "gate_word": (word_channels,),
        "gate_image": (channels,),
        "word_weight": (2 * channels, word_channels),
        "word_bias": (2 * channels,),
        "image_weight": (2 * channels, channels),
        "image_bias": (2 * channels,),
        "key_weight": (channels, 2 * channels),
        "key_bias": (channels,),
        "value_weight": (channels, 2 * channels),
        "value_bias": (channels,),
    }
    for name, size in expected.items():
        _checks.shape(OP, name, parameters[name], size)
    _checks.same_kind(OP, "words", {"words": words, "image_mean": image_mean, **parameters})


@_custom_op.define("memory_write")
def _forward(
    words: Tensor,
    image_mean: Tensor,
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
    backend: str,
) -> tuple[Tensor, Tensor]:
    inputs = (
        words,
        image_mean,
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
    return _backends.function(backend, OP, "memory_write_forward")(*(tensor.contiguous() for tensor in inputs))


@_forward.register_fake
def _(words: Tensor, image_mean: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    size = (words.shape[0], image_mean.shape[1], words.shape[2])
    return words.new_empty(size), words.new_empty(size)


@_custom_op.define("memory_write_backward")
def _backward(
    grad_key: Tensor, grad_value: Tensor, key: Tensor, value: Tensor, inputs: list[Tensor], backend: str
) -> list[Tensor]:
    """Gradients of ``inputs``, which are words, image_mean and the parameters in the order of ``PARAMETERS``."""
    tensors = (tensor.contiguous() for tensor in (grad_key, grad_value, key, value, *inputs))
    return list(_backends.function(backend, OP, "memory_write_backward")(*tensors))


@_backward.register_fake
def _(
    grad_key: Tensor, grad_value: Tensor, key: Tensor, value: Tensor, inputs: list[Tensor], backend: str
) -> list[Tensor]:
    return [torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device) for tensor in inputs]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.backend = inputs
    ctx.save_for_backward(*output, *tensors)


def _differentiate(ctx: Any, grad_key: Tensor, grad_value: Tensor) -> tuple[Tensor | None, ...]:
    key, value, *inputs = ctx.saved_tensors
    return *_backward(grad_key, grad_value, key, value, inputs, ctx.backend), None


_forward.register_autograd(_differentiate, _setup_context)
_backward.refuse_derivatives(OP)
