"""Words similarity of all pictures and captions: checks, custom op with fake tensors and autograd.

Saved for backward: the inputs and the scores ``[B, B']``. Under autocast it computes in float32: exponents of scores
and cosines near 1 do not survive in half precision.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dmgan_fast import reference
from dmgan_fast.errors import InputError
from dmgan_fast.ops import _backends, _checks, _custom_op

OP = "words_similarity"


def words_similarity(
    regions: Tensor, words: Tensor, lengths: Tensor, *, gamma1: float, gamma2: float, backend: str | None = None
) -> Tensor:
    _checks.shape(OP, "regions", regions, ("B", "D", "H", "W"))
    _checks.shape(OP, "words", words, ("B'", regions.shape[1], "T"))
    _checks.shape(OP, "lengths", lengths, (words.shape[0],))
    if lengths.is_floating_point() or lengths.is_complex():
        raise InputError(f"{OP}: lengths must be integers, got {lengths.dtype}")
    _checks.same_kind(OP, "regions", {"regions": regions, "words": words})
    if lengths.device != regions.device:
        raise InputError(f"{OP}: lengths is on {lengths.device}, regions is on {regions.device}")
    if regions.dtype != torch.float64 and torch.is_autocast_enabled(regions.device.type):
        regions, words = regions.float(), words.float()
    with torch.autocast(regions.device.type, enabled=False):
        chosen = _backends.choose(OP, backend, regions)
        if chosen == "reference":
            return reference.words_similarity(regions, words, lengths, gamma1=gamma1, gamma2=gamma2)
        scores = _forward(regions.flatten(2), words, lengths, gamma1, gamma2, chosen)
    return scores.to(regions.dtype)


@_custom_op.define("words_similarity")
def _forward(regions: Tensor, words: Tensor, lengths: Tensor, gamma1: float, gamma2: float, backend: str) -> Tensor:
    """``regions [B, D, N]`` → float32 ``[B, B']``."""
    return _backends.function(backend, OP, "words_similarity_forward")(
        regions.contiguous(), words.contiguous(), lengths.long().contiguous(), gamma1, gamma2
    )


@_forward.register_fake
def _(regions: Tensor, words: Tensor, lengths: Tensor, gamma1: float, gamma2: float, backend: str) -> Tensor:
    return regions.new_empty((regions.shape[0], words.shape[0]), dtype=torch.float32)


@_custom_op.define("words_similarity_backward")
def _backward(
    grad: Tensor,
    scores: Tensor,
    regions: Tensor,
    words: Tensor,
    lengths: Tensor,
    gamma1: float,
    gamma2: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    return _backends.function(backend, OP, "words_similarity_backward")(
        grad.contiguous(),
        scores,
        regions.contiguous(),
        words.contiguous(),
        lengths.long().contiguous(),
        gamma1,
        gamma2,
    )


@_backward.register_fake
def _(
    grad: Tensor,
    scores: Tensor,
    regions: Tensor,
    words: Tensor,
    lengths: Tensor,
    gamma1: float,
    gamma2: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    return (
        torch.empty(regions.shape, dtype=regions.dtype, device=regions.device),
        torch.empty(words.shape, dtype=words.dtype, device=words.device),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    regions, words, lengths, ctx.gamma1, ctx.gamma2, ctx.backend = inputs
    ctx.save_for_backward(output, regions, words, lengths)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grads = _backward(grad, *ctx.saved_tensors, ctx.gamma1, ctx.gamma2, ctx.backend)
    return (*grads, None, None, None, None)


_forward.register_autograd(_differentiate, _setup_context)
_backward.refuse_derivatives(OP)
