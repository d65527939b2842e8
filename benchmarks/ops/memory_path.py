"""Memory path (write + read), and AttnGAN's attention read: authors' form, compiled, SDPA, plain reference, fused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import authors
from benchmarks.common import Target
from benchmarks.harness import Case, ours
from benchmarks.ops import work
from dmgan_fast import functional
from dmgan_fast.reference import MemoryWeights

BATCH, CHANNELS, WORD_CHANNELS, WORDS = 4, 64, 256, 18

attention_read = partial(functional.memory_read, gate_weight=None, gate_bias=None)


def path(h: Tensor, words: Tensor, padding_mask: Tensor, *, backend: str, **weights: Any) -> Any:
    response = weights.pop("response_weight"), weights.pop("response_bias")
    image_mean = h.detach().mean((2, 3))
    key, value = functional.memory_write(words, image_mean, **weights, backend=backend)
    return functional.memory_read(h, key, value, *response, padding_mask, backend=backend)


reference = partial(path, backend="reference")


def _as_it_is(x: Tensor) -> Tensor:
    return x


def _laid_out(sdpa: Callable[..., Tensor], target: Target) -> dict[str, Callable[..., Tensor]]:
    """Its fused kernels on GPUs take no inputs whose channels lie apart: with copies of them."""
    return {"sdpa, contiguous": partial(sdpa, lay=Tensor.contiguous)} if target.device == "cuda" else {}


def sdpa(
    h: Tensor, words: Tensor, padding_mask: Tensor, *, lay: Callable[[Tensor], Tensor] = _as_it_is, **weights: Tensor
) -> Tensor:
    """Reading by PyTorch's scaled_dot_product_attention. ``lay``: of its inputs, pixels or words by channels."""
    gate_weight, gate_bias = weights.pop("response_weight"), weights.pop("response_bias")
    key, value = functional.memory_write(words, h.detach().mean((2, 3)), **weights, backend="reference")
    query, key, value = (lay(x.flatten(2).transpose(1, 2)) for x in (h, key, value))
    seen = ~padding_mask[:, None]
    read = F.scaled_dot_product_attention(query, key, value, seen, scale=1.0)
    read = read.transpose(1, 2).reshape(h.shape)
    of_h, of_read = gate_weight.chunk(2)
    logit = torch.einsum("c,bchw->bhw", of_h, h) + torch.einsum("c,bchw->bhw", of_read, read) + gate_bias
    gate = torch.sigmoid(logit)[:, None]
    return gate * read + (1 - gate) * h


def attention(h: Tensor, key: Tensor, value: Tensor, padding_mask: Tensor) -> Tensor:
    """AttnGAN's attention read as its code has it."""
    return authors.memory_read(h, key, value, padding_mask)[0]


def attention_sdpa(
    h: Tensor, key: Tensor, value: Tensor, padding_mask: Tensor, *, lay: Callable[[Tensor], Tensor] = _as_it_is
) -> Tensor:
    inputs = (lay(x.flatten(2).transpose(1, 2)) for x in (h, key, value))
    return F.scaled_dot_product_attention(*inputs, ~padding_mask[:, None], scale=1.0).transpose(1, 2).reshape(h.shape)


def _mask(batch: int, words: int, target: Target) -> Tensor:
    lengths = words - torch.arange(batch) * 3 % (words // 2 + 1)
    return (torch.arange(words) >= lengths[:, None]).to(target.device)


def case(target: Target, *, batch: int = BATCH, side: int = 64, words: int = WORDS) -> Case:
    """Writing and reading ``words`` for an image of ``side``."""
    wide = 2 * CHANNELS
    sizes: list[tuple[int, ...]] = [(WORD_CHANNELS,), (CHANNELS,), (wide, WORD_CHANNELS), (wide,), (wide, CHANNELS)]
    sizes += [(wide,), *[(CHANNELS, wide), (CHANNELS,)] * 2, (wide,), (1,)]
    weights = dict(zip((*MemoryWeights._fields, "response_weight", "response_bias"), sizes, strict=True))
    inputs = {"h": torch.randn(batch, CHANNELS, side, side), "words": torch.randn(batch, WORD_CHANNELS, words)}
    inputs |= {name: torch.randn(size) * size[-1] ** -0.5 for name, size in weights.items()}
    return Case(
        "memory_path",
        f"B{batch} C{CHANNELS} T{words} {side}x{side}",
        target.place(inputs),
        {"padding_mask": _mask(batch, words, target)},
        tuple(weights),
        reference,
        {
            "authors": authors.memory_path,
            "authors+compile": torch.compile(authors.memory_path),
            "sdpa": sdpa,
            **_laid_out(sdpa, target),
            "reference": reference,
            **ours(target, path),
        },
        work.memory_path(batch, CHANNELS, words, side**2, target.dtype.itemsize),
    )


def attention_case(target: Target, *, batch: int = BATCH, side: int = 128, words: int = WORDS) -> Case:
    """AttnGAN's read alone: no writing, no gate."""
    shapes = {"h": (batch, CHANNELS, side, side)} | dict.fromkeys(("key", "value"), (batch, CHANNELS, words))
    return Case(
        "attention_read",
        f"B{batch} C{CHANNELS} T{words} {side}x{side}",
        target.place({name: torch.randn(shape) * CHANNELS**-0.25 for name, shape in shapes.items()}),
        {"padding_mask": _mask(batch, words, target)},
        (),
        partial(attention_read, backend="reference"),
        {
            "authors": attention,
            "authors+compile": torch.compile(attention),
            "sdpa": attention_sdpa,
            **_laid_out(attention_sdpa, target),
            **ours(target, attention_read),
        },
        work.memory_path(batch, CHANNELS, words, side**2, target.dtype.itemsize),
    )


def cases(target: Target) -> Iterator[Case]:
    for side in (64, 128):
        yield case(target, side=side)
    yield attention_case(target)


def tiny(target: Target) -> Iterator[Case]:
    yield case(target, batch=2, side=6, words=4)
    yield attention_case(target, batch=2, side=6, words=4)
