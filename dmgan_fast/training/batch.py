"""What a training step learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only


@dataclass
class Batch:
    """What a step learns from, all on one device.

    ``images``: one ``[B, 3, S, S]`` in [-1, 1] for each resolution, smallest first; ``words [B, D, T]``,
    ``sentence [B, D]``, ``padding_mask [B, T]`` (True: padding), ``lengths [B]``, ``class_ids [B]`` or None.
    """

    images: Sequence[Tensor]
    words: Tensor
    sentence: Tensor
    padding_mask: Tensor
    lengths: Tensor
    class_ids: Tensor | None = None

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """A copy on ``device``."""
        return Batch(**tree_map_only(Tensor, lambda x: x.to(device, non_blocking=non_blocking), vars(self)))
