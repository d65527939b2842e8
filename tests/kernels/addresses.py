"""Triton kernels launched on tensors without data, however large: their grids, and what their last programs touch.

A launch on meta tensors runs its last program alone, in the interpreter and without memory: loads give zeros (of
lengths a large number), stores only say where.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from .interpreter import Builder, Handle, _unmasked, triton_interpreter

ROOM = 1 << 44  # bytes between the tensors of a launch
LARGE = 1 << 20  # what lengths are that a kernel loads


class _Placed:
    """A tensor of a launch at an address of its own."""

    def __init__(self, tensor: torch.Tensor, number: int) -> None:
        self.dtype, self.address = tensor.dtype, number * ROOM
        elements = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        self.bytes = elements * tensor.element_size() if tensor.numel() else 0

    def data_ptr(self) -> int:
        return self.address


@dataclass
class Launch:
    """``touched``: of each tensor by the name of its argument, the bytes up to the last element touched."""

    kernel: str
    grid: tuple[int, int, int]
    tensors: dict[str, _Placed] = field(default_factory=dict)
    touched: dict[str, int] = field(default_factory=dict)
    outside: list[str] = field(default_factory=list)

    def touch(self, addresses: np.ndarray, size: int) -> None:
        if not addresses.size:
            return
        for address in (int(addresses.min()), int(addresses.max())):
            number, offset = divmod(address, ROOM)
            name = list(self.tensors)[number - 1] if 1 <= number <= len(self.tensors) else ""
            end = offset + size
            if not name or end > self.tensors[name].bytes:
                self.outside.append(f"{self.kernel} touches byte {end} behind the start of {name or 'nothing'}")
            else:
                self.touched[name] = max(end, self.touched.get(name, 0))


@contextmanager
def last_programs() -> Iterator[list[Launch]]:
    """The launches of kernels inside, on meta tensors only."""
    launches: list[Launch] = []
    executor = triton_interpreter.GridExecutor
    call, arguments, restore = executor.__call__, executor._init_args_hst, executor._restore_args_dev
    ids, counts = Builder.create_get_program_id, Builder.create_get_num_programs
    load, store = Builder.create_masked_load, Builder.create_masked_store

    def run_last(self: Any, *args: Any, **kwargs: Any) -> None:
        grid = (*self.grid, 1, 1)[:3]
        launches.append(Launch(self.fn.__name__, grid))
        self.grid = (1, 1, 1)
        call(self, *args, **kwargs)

    def placed(self: Any, args: Any, kwargs: Any) -> Any:
        tensors = launches[-1].tensors

        def place(name: str, x: Any) -> Any:
            if isinstance(x, torch.Tensor):
                assert x.is_meta, f"{name} has data"
                x = tensors[name] = _Placed(x, len(tensors) + 1)
            return x

        return [*map(place, self.arg_names, args)], {name: place(name, x) for name, x in kwargs.items()}

    def axis_value(last: int) -> Any:
        def value(self: Any, axis: int) -> Any:
            size = launches[-1].grid[axis]
            return Handle(np.array([size - last], np.int32), triton_interpreter.tl.int32)

        return value

    def no_load(self: Any, pointers: Any, mask: Any, *_: Any, **__: Any) -> Any:
        kind = pointers.get_element_ty()
        dtype = triton_interpreter._get_np_dtype(kind)
        launches[-1].touch(_unmasked(pointers, mask), dtype.itemsize)
        return Handle(np.full(pointers.data.shape, LARGE if dtype == np.int64 else 0, dtype), kind)

    def no_store(self: Any, pointers: Any, value: Any, mask: Any, *_: Any, **__: Any) -> None:
        size = triton_interpreter._get_np_dtype(pointers.get_element_ty()).itemsize
        launches[-1].touch(_unmasked(pointers, mask), size)

    executor.__call__, executor._init_args_hst = run_last, placed
    executor._restore_args_dev = lambda *_: None
    Builder.create_get_program_id, Builder.create_get_num_programs = axis_value(1), axis_value(0)
    Builder.create_masked_load, Builder.create_masked_store = no_load, no_store
    try:
        with torch.device("meta"):
            yield launches
    finally:
        executor.__call__, executor._init_args_hst, executor._restore_args_dev = call, arguments, restore
        Builder.create_get_program_id, Builder.create_get_num_programs = ids, counts
        Builder.create_masked_load, Builder.create_masked_store = load, store
