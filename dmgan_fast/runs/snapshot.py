"""A copy of a state in memory, as it is at one moment, that training no longer changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from dmgan_fast.parallel.shards import held


def snapshot(state: Any) -> Any:
    """The same state in tensors of its own, all of them in the main memory; from a GPU they come through pinned memory.

    Dictionaries, lists and tuples are copied; what else is in them is taken as it is.
    """
    copied = _copy(state)
    if any(tensor.is_cuda for tensor in tensors(state)):
        torch.cuda.synchronize()  # the copies were only asked for
    return copied


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        value = value.detach()
        if value.device.type == "cpu":
            return value.clone()
        return torch.empty_like(value, device="cpu", pin_memory=value.is_cuda).copy_(value, non_blocking=True)
    if isinstance(value, dict):
        return {key: _copy(each) for key, each in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(_copy, value))
    return type(value)(map(_copy, value)) if isinstance(value, (list, tuple)) else value


def leaves(state: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """All in a state that is no dictionary, list or tuple, with its dotted name."""
    if not isinstance(state, (dict, list, tuple)):
        yield name, state
        return
    for key, each in state.items() if isinstance(state, dict) else enumerate(state):
        yield from leaves(each, f"{name}.{key}" if name else str(key))


def tensors(state: Any) -> Iterator[Tensor]:
    """All tensors in a state."""
    return (each for _, each in leaves(state) if isinstance(each, Tensor))


def bytes_of(state: Any) -> int:
    """Of the tensors of a state, as far as this process holds them."""
    return sum(held(tensor).nbytes for tensor in tensors(state))


def is_sharded(state: Any) -> bool:
    """Whether some tensors of a state are spread over processes."""
    return any(isinstance(tensor, DTensor) for tensor in tensors(state))
