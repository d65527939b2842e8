"""Argument checks shared by the ops: raised before any work, naming the op and the argument."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dmgan_fast.errors import InputError

Size = int | str


def shape(op: str, name: str, tensor: Tensor, expected: Sequence[Size], like: str = "") -> None:
    """A size given as a letter matches any size of at least one."""
    if not isinstance(tensor, Tensor):
        raise InputError(f"{op}: {name} must be a tensor, got {type(tensor).__name__}")
    if tensor.shape == expected:
        return
    fits = tensor.dim() == len(expected) and all(
        size >= 1 if isinstance(want, str) else size == want for size, want in zip(tensor.shape, expected, strict=True)
    )
    if not fits:
        wanted = "[" + ", ".join(str(size) for size in expected) + "]"
        raise InputError(f"{op}: {name} must have {like or 'shape '}{wanted}, got {list(tensor.shape)}")


def same_device(op: str, name: str, tensor: Tensor, first: str, base: Tensor) -> None:
    if tensor.device != base.device:
        raise InputError(f"{op}: {name} is on {tensor.device}, {first} is on {base.device}; they must be on one device")


def same_kind(op: str, first: str, tensors: dict[str, Tensor | None]) -> None:
    """One floating dtype and one device for all; under autocast dtypes may differ."""
    base = tensors[first]
    assert base is not None
    if not base.is_floating_point():
        raise InputError(f"{op}: {first} must be floating point, got {base.dtype}")
    autocast = torch.is_autocast_enabled(base.device.type)
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        same_device(op, name, tensor, first, base)
        if tensor.dtype != base.dtype and not autocast:
            raise InputError(f"{op}: {name} is {tensor.dtype}, {first} is {base.dtype}; they must have one dtype")


def one_of(op: str, name: str, value: object, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise InputError(f"{op}: {name} must be one of {', '.join(allowed)}, got {value!r}")
