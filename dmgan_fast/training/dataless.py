"""Tensors without data: PyTorch's fake tensors, with what its operators return on them remembered.

A step runs a few operators on a few shapes thousands of times, and PyTorch's own way to a fake result takes ten times
as long as making one. So it is asked once for each signature: operator, shapes, strides, types and other arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, in_kernel_invocation_manager
from torch.utils._python_dispatch import TorchDispatchMode

CPU = torch.device("cpu")
Way = Callable[[Any, tuple[Any, ...], Mapping[str, Any]], Any]


class Dataless(TorchDispatchMode):
    """Within, tensors are made without data, and say that they are on a CPU. All share what was asked before."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _shared().run(func, args, kwargs or {})


class _Layout(NamedTuple):
    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype


class _Unfit(Exception):
    """Shapes don't tell what this call returns."""


class _Memory:
    def __init__(self) -> None:
        self.mode = FakeTensorMode()
        self.mode.cache_enabled = False  # its keys take longer than ours and its results together
        self.ways: dict[Any, Way] = {torch.ops.prim.device.default: lambda func, args, kwargs: CPU}
        self.known: dict[Any, Any] = {}  # signature → layouts of results

    def run(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What ``func`` returns."""
        way = self.ways.get(func)
        if way is None:
            way = self.ways[func] = self._way_of(func)
        try:
            return way(func, args, kwargs)
        except _Unfit:
            return self._ask(func, args, kwargs)

    def _way_of(self, func: Any) -> Way:
        if not isinstance(func, torch._ops.OpOverload):
            return self._ask
        written = [a.alias_info is not None and a.alias_info.is_write for a in func._schema.arguments]
        aliased = [r.alias_info is not None for r in func._schema.returns]
        if any(written):
            first_alone = written[0] and not any(written[1:]) and torch.Tag.inplace_view not in func.tags
            return self._write if first_alone and aliased in ([], [True]) else self._ask
        if any(aliased):
            return self._view if func.is_view and len(aliased) == 1 else self._ask
        return self._make if aliased else self._ask

    def _ask(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        with self.mode:
            return func(*args, **kwargs)

    def _write(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Into the first argument, which has no data to write."""
        _signature(args), _signature(tuple(kwargs.values()))
        return args[0] if func._schema.returns else None

    def _view(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Of the first argument's storage, by the kernel of tensors that have none."""
        _signature(args)
        with in_kernel_invocation_manager(self.mode):
            seen = func(*args, **kwargs)
        if isinstance(seen, FakeTensor):
            return seen
        return FakeTensor(self.mode, seen, CPU) if isinstance(seen, Tensor) else [FakeTensor(self.mode, each, CPU) for each in seen]

    def _make(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        key = func, _signature(args), _signature(tuple(kwargs.items()))
        if key not in self.known:
            results = self._ask(func, args, kwargs)
            self.known[key] = _layouts(results, (*args, *kwargs.values()))
            return results
        return self._tensors(self.known[key])

    def _tensors(self, known: Any) -> Any:
        if type(known) is _Layout:
            shape, stride, dtype = known
            return FakeTensor(self.mode, torch.empty_strided(shape, stride, dtype=dtype, device="meta"), CPU)
        if known is _Unfit:
            raise _Unfit
        return None if known is None else tuple(map(self._tensors, known))


@cache
def _shared() -> _Memory:
    return _Memory()


def _signature(value: Any) -> Any:
    """Hashable, the same for arguments that give the same results."""
    kind = type(value)
    if kind is FakeTensor and value.constant is None:
        return value.shape, value.stride(), value.dtype
    if kind in (int, float, bool):
        return kind, value  # 1, 1.0 and True are equal
    if kind in (tuple, list):
        return tuple(map(_signature, value))
    if isinstance(value, Tensor):
        raise _Unfit
    return value


def _layouts(results: Any, arguments: Iterable[Any]) -> Any:
    """Of results that are new and dense from their first byte to their last; of others ``_Unfit``."""
    storages = {x.untyped_storage()._cdata for x in arguments if isinstance(x, Tensor)}
    def layout(result: Any) -> Any:
        if result is None: return None
        if isinstance(result, FakeTensor):
            storage = result.untyped_storage()
            found = _Layout(result.shape, result.stride(), result.dtype)
            like = torch.empty_strided(*found[:2], dtype=result.dtype, device="meta")
            if storage._cdata in storages or result.constant is not None or result.storage_offset() or like.untyped_storage().nbytes() != storage.nbytes():
                raise _Unfit
            storages.add(storage._cdata)
            return found
        if isinstance(result, (tuple, list)): return tuple(map(layout, result))
        raise _Unfit
    try:
        return layout(results)
    except _Unfit:
        return _Unfit
