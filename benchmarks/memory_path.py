"""Memory path (write + read), and AttnGAN's attention read: authors' form, compiled, SDPA, plain reference, fused."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import authors, work
from benchmarks.harness import Case, Target, run
from dmgan_fast import functional
from dmgan_fast.ops.memory_write import PARAMETERS

BATCH, CHANNELS, WORD_CHANNELS, WORDS = 4, 64, 256, 18


def path(backend: str, h: Tensor, words: Tensor, padding_mask: Tensor, **weights: Tensor) -> Tensor:
    response = weights.pop("response_weight"), weights.pop("response_bias")
    image_mean = h.detach().mean((2, 3))
    key, value = functional.memory_write(words, image_mean, **weights, backend=backend)
    read = functional.memory_read(h, key, value, *response, padding_mask, backend=backend)
    assert isinstance(read, Tensor)
    return read


def reference(**inputs: Tensor) -> Tensor:
    return path("reference", **inputs)


def sdpa(h: Tensor, words: Tensor, padding_mask: Tensor, **weights: Tensor) -> Tensor:
    """Reading by PyTorch's scaled_dot_product_attention."""
    gate_weight, gate_bias = weights.pop("response_weight"), weights.pop("response_bias")
    key, value = functional.memory_write(words, h.detach().mean((2, 3)), **weights, backend="reference")
    query = h.flatten(2).transpose(1, 2)
    seen = ~padding_mask[:, None]
    read = F.scaled_dot_product_attention(query, key.transpose(1, 2), value.transpose(1, 2), seen, scale=1.0)
    read = read.transpose(1, 2).reshape(h.shape)
    of_h, of_read = gate_weight.chunk(2)
    logit = torch.einsum("c,bchw->bhw", of_h, h) + torch.einsum("c,bchw->bhw", of_read, read) + gate_bias
    gate = torch.sigmoid(logit)[:, None]
    return gate * read + (1 - gate) * h


def attention(h: Tensor, key: Tensor, value: Tensor, padding_mask: Tensor) -> Tensor:
    """AttnGAN's attention read as its code has it."""
    return authors.memory_read(h, key, value, padding_mask)[0]


def attention_sdpa(h: Tensor, key: Tensor, value: Tensor, padding_mask: Tensor) -> Tensor:
    inputs = (x.flatten(2).transpose(1, 2) for x in (h, key, value))
    return F.scaled_dot_product_attention(*inputs, ~padding_mask[:, None], scale=1.0).transpose(1, 2).reshape(h.shape)


def attention_read(backend: str, h: Tensor, key: Tensor, value: Tensor, padding_mask: Tensor) -> Tensor:
    read = functional.memory_read(h, key, value, None, None, padding_mask, backend=backend)
    assert isinstance(read, Tensor)
    return read


def _mask(batch: int, words: int, target: Target) -> Tensor:
    lengths = words - torch.arange(batch) * 3 % (words // 2 + 1)
    return (torch.arange(words) >= lengths[:, None]).to(target.device)


def case(target: Target, *, batch: int = BATCH, side: int = 64, words: int = WORDS) -> Case:
    """Writing and reading ``words`` for a picture of ``side``."""
    sizes = dict(
        zip(
            PARAMETERS,
            [
                (WORD_CHANNELS,),
                (CHANNELS,),
                (2 * CHANNELS, WORD_CHANNELS),
                (2 * CHANNELS,),
                (2 * CHANNELS, CHANNELS),
                (2 * CHANNELS,),
                *[(CHANNELS, 2 * CHANNELS), (CHANNELS,)] * 2,
            ],
            strict=True,
        )
    )
    sizes |= {"response_weight": (2 * CHANNELS,), "response_bias": (1,)}
    inputs = {"h": torch.randn(batch, CHANNELS, side, side), "words": torch.randn(batch, WORD_CHANNELS, words)}
    inputs |= {name: torch.randn(size) * size[-1] ** -0.5 for name, size in sizes.items()}
    return Case(
        "memory_path",
        f"B{batch} C{CHANNELS} T{words} {side}x{side}",
        target.place(inputs),
        {"padding_mask": _mask(batch, words, target)},
        tuple(sizes),
        reference,
        {
            "authors": authors.memory_path,
            "authors+compile": torch.compile(authors.memory_path),
            "sdpa": sdpa,
            "reference": reference,
            **{name: partial(path, backend) for name, backend in target.backends().items()},
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
        partial(attention_read, "reference"),
        {
            "authors": attention,
            "authors+compile": torch.compile(attention),
            "sdpa": attention_sdpa,
            **{name: partial(attention_read, backend) for name, backend in target.backends().items()},
        },
        work.memory_path(batch, CHANNELS, words, side**2, target.dtype.itemsize),
    )


def cases(target: Target) -> Iterator[Case]:
    for side in (64, 128):
        yield case(target, side=side)
    yield attention_case(target)


if __name__ == "__main__":
    run({"memory_path": cases}, __doc__ or "")
