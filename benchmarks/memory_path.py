"""Memory path (write + read), forward and backward: authors' form, compiled, SDPA, plain reference, fused."""

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


def cases(target: Target) -> Iterator[Case]:
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
    for side in (64, 128):
        inputs = {"h": torch.randn(BATCH, CHANNELS, side, side), "words": torch.randn(BATCH, WORD_CHANNELS, WORDS)}
        inputs |= {name: torch.randn(size) * size[-1] ** -0.5 for name, size in sizes.items()}
        lengths = torch.tensor([18, 12, 15, 9])
        yield Case(
            "memory_path",
            f"B{BATCH} C{CHANNELS} T{WORDS} {side}x{side}",
            target.place(inputs),
            {"padding_mask": (torch.arange(WORDS) >= lengths[:, None]).to(target.device)},
            tuple(sizes),
            reference,
            {
                "authors": authors.memory_path,
                "authors+compile": torch.compile(authors.memory_path),
                "sdpa": sdpa,
                "reference": reference,
                **{name: partial(path, backend) for name, backend in target.backends().items()},
            },
            work.memory_path(BATCH, CHANNELS, WORDS, side**2, target.dtype.itemsize),
        )


if __name__ == "__main__":
    run({"memory_path": cases}, __doc__ or "")
