"""The layouts that kernels take (docs/backends.md), and what their results look like."""

from __future__ import annotations

from typing import overload

import torch
from torch import Tensor


def is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def memory_format(x: Tensor) -> torch.memory_format:
    return torch.channels_last if is_channels_last(x) else torch.contiguous_format


def pixel_linear(x: Tensor) -> Tensor:
    """``x [B, C, H, W]`` itself if its pixels are evenly spaced, else a contiguous copy."""
    width = x.shape[3]
    if is_channels_last(x) or (x.stride(3) == 1 and x.stride(2) == width):
        return x
    return x.contiguous()


def dense(x: Tensor) -> Tensor:
    """``x [B, C, H, W]`` itself if it is NCHW or channels-last without gaps, else a contiguous copy."""
    return x if is_channels_last(x) else x.contiguous()


def dense_like(x: Tensor, pattern: Tensor) -> Tensor:
    """``x`` in the dense layout of ``pattern``."""
    return x.contiguous(memory_format=memory_format(pattern))


def empty_map(x: Tensor, channels: int, height: int, width: int) -> Tensor:
    """A result ``[B, channels, height, width]`` in the layout of ``x``."""
    return torch.empty(
        (x.shape[0], channels, height, width), dtype=x.dtype, device=x.device, memory_format=memory_format(x)
    )


def at_least_float32(x: Tensor) -> Tensor:
    """Itself, or sixteen bits as float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@overload
def wide(x: Tensor) -> Tensor: ...
@overload
def wide(x: None) -> None: ...
def wide(x: Tensor | None) -> Tensor | None:
    """Per-channel numbers: float32, contiguous."""
    return None if x is None else x.float().contiguous()
