"""Feature maps in the layout that an op is fastest in on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from dmgan_fast import native
from dmgan_fast.devices import type_of


def laid_out(x: Tensor, memory_format: torch.memory_format) -> Tensor:
    """A dense ``x [B, C, H, W]`` on a CPU in that layout; on another device as it is."""
    if type_of(x) != "cpu" or x.is_contiguous(memory_format=memory_format):
        return x
    relaid: Tensor = native.load("cpu").relayout(x)
    return relaid
