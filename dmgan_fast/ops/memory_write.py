"""Memory writing: checks and dispatch."""

from __future__ import annotations

from torch import Tensor

from dmgan_fast.ops import _backends, _checks

OP = "memory_write"


def memory_write(
    words: Tensor, image_mean: Tensor, *, backend: str | None = None, **weights: Tensor
) -> tuple[Tensor, Tensor]:
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
        _checks.shape(OP, name, weights[name], size)
    _checks.same_kind(OP, "words", {"words": words, "image_mean": image_mean, **weights})
    result: tuple[Tensor, Tensor] = _backends.choose(OP, backend)(words, image_mean, **weights)
    return result
