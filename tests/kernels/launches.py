"""The ops' Triton kernels launched once, forward and backward, on zeros: for tests of launches, not of values."""

from __future__ import annotations

import torch

NCHW, NHWC = torch.contiguous_format, torch.channels_last


def picture(dtype: torch.dtype, layout: torch.memory_format, *shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype).contiguous(memory_format=layout)


def memory_read(
    dtype: torch.dtype, layout: torch.memory_format, channels: int, words: int = 18, batch: int = 4, side: int = 64
) -> None:
    """By default captions of birds, at the resolution where the memory is read first."""
    from dmgan_fast.kernels import memory_read as op

    h = picture(dtype, layout, batch, channels, side, side)
    key = torch.zeros((batch, channels, words), dtype=dtype)
    gate = torch.zeros(2 * channels), torch.zeros(1)
    mask = torch.zeros((batch, words), dtype=torch.bool)
    lse = torch.zeros((batch, side * side))
    op.memory_read_forward(h, key, key, *gate, mask, False, False, False)
    op.memory_read_backward(h, None, None, h, key, key, *gate, mask, lse, False)


def memory_write(
    dtype: torch.dtype, layout: torch.memory_format, channels: int, words: int = 18, batch: int = 4
) -> None:
    from dmgan_fast.kernels import memory_write as op

    word_channels = 256
    sizes = (batch, word_channels, words), (batch, channels), (word_channels,), (channels,)
    sizes += (2 * channels, word_channels), (2 * channels,), (2 * channels, channels), (2 * channels,)
    sizes += (channels, 2 * channels), (channels,), (channels, 2 * channels), (channels,)
    inputs = [torch.zeros(size, dtype=dtype) for size in sizes]
    key = torch.zeros((batch, channels, words), dtype=dtype)
    op.memory_write_forward(*inputs)
    op.memory_write_backward(key, key, key, key, *inputs)


def batch_norm_glu(
    dtype: torch.dtype, layout: torch.memory_format, channels: int = 64, batch: int = 2, side: int = 64
) -> None:
    """``channels`` of y; with the GLU and its mean, then with a skip."""
    from dmgan_fast.kernels import batch_norm_glu as op

    x = picture(dtype, layout, batch, 2 * channels, side, side)
    weight, bias, grad_mean = torch.zeros(2 * channels), torch.zeros(2 * channels), torch.zeros(batch, channels)
    y, mean, _, rstd, _ = op.batch_norm_glu_forward(x, weight, bias, None, None, None, 1e-5, True)
    op.batch_norm_glu_backward(y, grad_mean, x, weight, bias, mean, rstd, True, True, None, 0)
    y, mean, _, rstd, _ = op.batch_norm_glu_forward(x, weight, bias, x, None, None, 1e-5, False)
    op.batch_norm_glu_backward(y, None, x, weight, bias, mean, rstd, False, True, None, 0)


def upsample_conv3x3(
    dtype: torch.dtype,
    layout: torch.memory_format,
    channels: int = 64,
    batch: int = 2,
    size: tuple[int, int] = (64, 64),
) -> None:
    from dmgan_fast.kernels import upsample_conv3x3 as op

    x = picture(dtype, layout, batch, channels, *size)
    weight = torch.zeros((channels, channels, 3, 3), dtype=dtype)
    y = op.upsample_conv3x3_forward(x, weight)
    op.upsample_conv3x3_backward(y, x, weight, True, True)


def words_similarity(
    dtype: torch.dtype,
    layout: torch.memory_format,
    channels: int = 256,
    words: int = 18,
    batch: int = 4,
    regions: int = 289,
    captions: int | None = None,
) -> None:
    """``captions``: as many as pictures by default."""
    from dmgan_fast.kernels import words_similarity as op

    pictures = torch.zeros((batch, channels, regions), dtype=dtype)
    captioned = torch.zeros((captions or batch, channels, words), dtype=dtype)
    lengths = torch.full((len(captioned),), words)
    scores = op.words_similarity_forward(pictures, captioned, lengths, 4.0, 5.0)
    op.words_similarity_backward(scores, scores, pictures, captioned, lengths, 4.0, 5.0)
