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

CPU, META = torch.device("cpu"), torch.device("meta")
# Work on each element alone, and PyTorch has not tagged them so.
ELEMENTWISE = {torch.ops.aten.leaky_relu_backward.default, torch.ops.aten.softplus_backward.default}
Arguments = tuple[Any, ...]
Way = Callable[[Any, Arguments, Mapping[str, Any]], Any]


class Dataless(TorchDispatchMode):
    """Within, tensors are made without data, and say that they are on a CPU. All share what was asked before."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if kwargs and kwargs.get("device") == META:  # what such tensors are made from, if this mode is entered twice
            return func(*args, **kwargs)
        return _operators().run(func, args, kwargs or {})


class Unfit(Exception):
    """A call that shapes alone don't describe."""


def signature(value: Any) -> Any:
    """Hashable, and the same for arguments that give the same results.

    Raises:
        Unfit: if a tensor has data.
    """
    kind = type(value)
    if kind is FakeTensor and value.constant is None:
        return value.shape, value.stride(), value.dtype
    if kind in (int, float, bool):
        return kind, value  # 1, 1.0 and True are equal
    if kind in (tuple, list):
        return tuple(map(signature, value))
    if isinstance(value, Tensor):
        raise Unfit
    return value


class _Layout(NamedTuple):
    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype


class _Operators:
    def __init__(self) -> None:
        self.mode = FakeTensorMode()
        self.mode.cache_enabled = False  # finding its key takes longer than ours and the result together
        self.ways: dict[Any, Way] = {torch.ops.prim.device.default: lambda func, args, kwargs: CPU}
        self.known: dict[Any, Any] = {}  # signature → layouts of results, or Unfit

    def run(self, func: Any, args: Arguments, kwargs: Mapping[str, Any]) -> Any:
        """What ``func`` returns."""
        way = self.ways.get(func)
        if way is None:
            way = self.ways[func] = self._way_of(func)
        try:
            return way(func, args, kwargs)
        except Unfit:
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

    def _ask(self, func: Any, args: Arguments, kwargs: Mapping[str, Any]) -> Any:
        with self.mode:
            return func(*args, **kwargs)

    def _write(self, func: Any, args: Arguments, kwargs: Mapping[str, Any]) -> Any:
        """Into the first argument, which has no data to write."""
        signature(args)
        signature(tuple(kwargs.values()))
        return args[0] if func._schema.returns else None

    def _view(self, func: Any, args: Arguments, kwargs: Mapping[str, Any]) -> Any:
        """Of the first argument's storage, as its kernel for tensors without storage gives it."""
        signature(args)
        with in_kernel_invocation_manager(self.mode):
            seen = func(*args, **kwargs)
        if isinstance(seen, FakeTensor):
            return seen
        if isinstance(seen, Tensor):
            return FakeTensor(self.mode, seen, CPU)
        return [FakeTensor(self.mode, each, CPU) for each in seen]

    def _make(self, func: Any, args: Arguments, kwargs: Mapping[str, Any]) -> Any:
        key = func, signature(args), signature(tuple(kwargs.items()))
        if key in self.known:
            return self._tensors(self.known[key])
        alike = _elementwise_alike(func, args, kwargs)
        if alike is not None and alike in self.known:
            self.known[key] = _layout(args[0])._replace(dtype=self.known[alike])
            return self._tensors(self.known[key])
        results = self._ask(func, args, kwargs)
        try:
            self.known[key] = _layouts(results, _storages((*args, *kwargs.values())))
        except Unfit:
            self.known[key] = Unfit
        if alike is not None and self.known[key] == _layout(args[0])._replace(dtype=results.dtype):
            self.known[alike] = results.dtype
        return results

    def _tensors(self, known: Any) -> Any:
        if type(known) is _Layout:
            shape, stride, dtype = known
            return FakeTensor(self.mode, torch.empty_strided(shape, stride, dtype=dtype, device=META), CPU)
        if known is Unfit:
            raise Unfit
        return None if known is None else tuple(map(self._tensors, known))


def _elementwise_alike(func: Any, args: Arguments, kwargs: Mapping[str, Any]) -> Any:
    """What decides the type of a result that is laid out as the arguments, which are dense and all laid out alike."""
    if torch.Tag.pointwise not in func.tags and func not in ELEMENTWISE:
        return None
    if kwargs or not isinstance(args[0], Tensor) or any(isinstance(x, (tuple, list)) for x in args):
        return None
    layout = _layout(args[0])
    tensors = [isinstance(x, Tensor) for x in args]
    if any(_layout(x) != layout for x, tensor in zip(args, tensors, strict=True) if tensor):
        return None
    if not torch._prims_common.is_non_overlapping_and_dense_or_false(args[0]):
        return None
    return func, layout.dtype, tuple(t or signature(x) for x, t in zip(args, tensors, strict=True))


@cache
def _operators() -> _Operators:
    return _Operators()


def _layout(tensor: Tensor) -> _Layout:
    return _Layout(tensor.shape, tensor.stride(), tensor.dtype)


def _layouts(results: Any, storages: set[int]) -> Any:
    """Of results that are new: dense, in storages of their own, which ``storages`` then has too."""
    if isinstance(results, (tuple, list)):
        return tuple(_layouts(each, storages) for each in results)
    if results is None:
        return None
    if not isinstance(results, FakeTensor) or results.constant is not None or results.storage_offset():
        raise Unfit
    storage, found = results.untyped_storage(), _layout(results)
    again = torch.empty_strided(found.shape, found.stride, dtype=found.dtype, device=META)
    if storage._cdata in storages or again.untyped_storage().nbytes() != storage.nbytes():
        raise Unfit
    storages.add(storage._cdata)
    return found


def _storages(values: Iterable[Any]) -> set[int]:
    found = set()
    for value in values:
        if isinstance(value, Tensor):
            found.add(value.untyped_storage()._cdata)
        elif isinstance(value, (tuple, list)):
            found |= _storages(value)
    return found
