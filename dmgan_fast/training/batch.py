"""What a training step learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor


@dataclass
class Batch:
    """What a step learns from, all on one device.

    ``images``: one ``[B, 3, S, S]`` in [-1, 1] for each side, smallest first; ``words [B, D, T]``,
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

        def move(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.to(device, non_blocking=non_blocking)
            return value if value is None else [move(item) for item in value]

        return Batch(**{field.name: move(getattr(self, field.name)) for field in fields(self)})
