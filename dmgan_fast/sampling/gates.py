"""What a generator's memories decide while it generates: the writing gates, which its output does not hold."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from dmgan_fast.modules import DynamicMemory, Generator


@contextmanager
def writing_gates(generator: Generator) -> Iterator[list[Tensor]]:
    """Within, each call of ``generator`` by this thread adds its gates ``g_w [B, T]``, NaN at padding, one tensor for
    each refinement whose memory has a writing gate, in order."""
    found: list[Tensor] = []
    thread = threading.get_ident()

    def keep(memory: DynamicMemory, inputs: tuple[Any, ...], options: dict[str, Any], _: Any) -> None:
        if threading.get_ident() != thread:
            return
        _, words, padding_mask = inputs
        gates = memory.writing_gates(words, options["image_mean"])
        found.append(gates if padding_mask is None else gates.masked_fill(padding_mask, torch.nan))

    memories = [stage.memory for stage in generator.stages]
    handles = [
        memory.register_forward_hook(keep, with_kwargs=True)
        for memory in memories
        if isinstance(memory, DynamicMemory) and memory.writing_gate
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
