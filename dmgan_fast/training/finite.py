"""Numbers that are none, looked for before they are saved."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from dmgan_fast.errors import NonFiniteLossError


def require_finite(state: Any, step: int) -> None:
    """Raise ``NonFiniteLossError`` if a number in ``state`` is not finite: a gradient may be NaN where no loss is."""
    floats = [(name, x) for name, x in _named_tensors(state, "") if x.is_floating_point() and x.numel()]
    if not floats or bool(torch.stack([x.isfinite().all() for _, x in floats]).all()):
        return
    name = next(name for name, x in floats if not x.isfinite().all())
    raise NonFiniteLossError(
        f"{name} is not finite after step {step}: a gradient was NaN or infinite; no checkpoint is written of it, the "
        "last one is from before"
    )


def _named_tensors(state: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(state, Tensor):
        yield name, state
    elif isinstance(state, dict):
        for key, value in state.items():
            yield from _named_tensors(value, f"{name}.{key}" if name else str(key))
    elif isinstance(state, (list, tuple)):
        for number, value in enumerate(state):
            yield from _named_tensors(value, f"{name}.{number}")
