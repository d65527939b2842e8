"""Exact rematerialisation: a region keeps its inputs only and is run again in the backward pass.

``torch.utils.checkpoint`` alone would update batch-norm statistics and power iterations twice. Here the second run
sees the region's buffers as they were before the first, as copies: same results, same gradients, and the buffers
themselves are changed once, in the order of the forward pass. Random numbers and autocast are restored as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

T = TypeVar("T")


def rematerialise(function: Callable[..., T], *inputs: Any, modules: Sequence[nn.Module] = ()) -> T:
    """``function(*inputs)``, of which only ``inputs`` are saved for backward.

    Works nested, under autocast, ``torch.compile`` and data-parallel wrappers.

    Args:
        function: run now, and once more for each backward pass that reaches it. It must do the same each time, up to
            random numbers and the buffers of ``modules``.
        inputs: tensors and anything else; gradients flow to them and to the parameters that ``function`` uses.
        modules: those whose buffers ``function`` may change; ``function`` itself, if it is a module.
    """
    if not torch.is_grad_enabled():
        return function(*inputs)
    if torch.compiler.is_compiling():  # the compiler keeps the changes of buffers out of what it recomputes
        return checkpoint(function, *inputs, use_reentrant=False)  # type: ignore[no-any-return]
    owners = (function,) if isinstance(function, nn.Module) else tuple(modules)
    before: dict[nn.Module, dict[str, Tensor]] | None = None

    def run(*inputs: Any) -> T:
        nonlocal before
        if before is None:
            before = _copies(owners)
            return function(*inputs)
        with _buffers(before):
            return function(*inputs)

    return checkpoint(run, *inputs, use_reentrant=False)  # type: ignore[no-any-return]


def _copies(owners: Sequence[nn.Module]) -> dict[nn.Module, dict[str, Tensor]]:
    """Copies of all buffers, by the module that holds them."""
    holders = (module for owner in owners for module in owner.modules())
    return {m: {name: b.clone() for name, b in m._buffers.items() if b is not None} for m in holders if m._buffers}


@contextmanager
def _buffers(values: dict[nn.Module, dict[str, Tensor]]) -> Iterator[None]:
    """Within, the modules hold copies of ``values`` as their buffers."""
    own = {module: dict(module._buffers) for module in values}
    for module, buffers in values.items():
        module._buffers.update({name: value.clone() for name, value in buffers.items()})
    try:
        yield
    finally:
        for module, kept in own.items():
            module._buffers.update(kept)
