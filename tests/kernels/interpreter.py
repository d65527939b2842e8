"""Triton kernels executed on the CPU: a correct bfloat16, a sanitizer, a count of memory sectors, and mutants.

Importing this module switches Triton's interpreter on, so it comes before any import of Triton. Triton 3.8 computes
bfloat16 on the raw bits and truncates casts; here every operation widens to float32 and rounds to nearest even once.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

if "triton" not in sys.modules:
    os.environ["TRITON_INTERPRET"] = "1"

import triton.language as tl
from triton import knobs
from triton.runtime import interpreter as triton_interpreter
from triton.runtime.errors import InterpreterError

__all__ = ["InterpreterError", "Traffic", "counted_loads", "mutant", "sanitized"]

if not knobs.runtime.interpret:
    raise ImportError("Triton was imported before its interpreter was switched on: set TRITON_INTERPRET=1")

Builder = triton_interpreter.InterpreterBuilder
Handle = triton_interpreter.TensorHandle

# --- bfloat16 ---------------------------------------------------------------------------------------------------------

BF16_NAN = np.uint16(0x7FC0)


def _is_bf16(handle: Any) -> bool:
    return isinstance(handle, Handle) and handle.dtype.scalar == tl.bfloat16 and handle.data.dtype == np.uint16


def _widen(handle: Any) -> Any:
    """The float32 handle of a bfloat16 one; anything else as it is."""
    if not _is_bf16(handle):
        return handle
    return Handle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)


def _round(values: np.ndarray) -> Any:
    """float32 → the handle of the nearest bfloat16, ties to even."""
    values = np.array(values, np.float32, order="C")
    bits = values.view(np.uint32).astype(np.uint64)
    nearest = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return Handle(np.where(np.isnan(values), BF16_NAN, nearest), tl.bfloat16)


def _computing_in_float32(operation: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(operation)
    def repaired(self: Any, *operands: Any) -> Any:
        result = operation(self, *map(_widen, operands))
        if result.data.dtype == np.bool_:  # a comparison, which Triton labels with its operands' type
            return Handle(result.data, tl.int1)
        narrow = any(map(_is_bf16, operands)) and result.dtype.scalar == tl.float32
        return _round(result.data) if narrow else result

    return repaired


def _repair_bfloat16() -> None:
    original_cast = Builder.cast_impl

    def cast(self: Any, source: Any, target: Any) -> Any:
        if target.scalar == tl.bfloat16:
            return source if _is_bf16(source) else _round(source.data)
        return original_cast(self, _widen(source), target)

    def dot(self: Any, a: Any, b: Any, accumulator: Any, *options: Any) -> Any:
        return original_dot(self, _widen(a), _widen(b), accumulator, *options)

    original_dot, Builder.create_dot = Builder.create_dot, dot
    Builder.cast_impl = cast
    Builder.get_bf16 = lambda self, value: _round(np.array([value]))
    for name in ("binary_op", "unary_op", "create_fma", "create_rsqrt", "create_erf", "create_clampf"):
        setattr(Builder, name, _computing_in_float32(getattr(Builder, name)))

    # Reductions and scans bypass the builder.
    for operation in (triton_interpreter.ReduceOps, triton_interpreter.ScanOps):
        operation.apply_impl = _reducing_in_float32(operation.apply_impl)


def _reducing_in_float32(apply: Callable[..., Any]) -> Callable[..., Any]:
    def repaired(self: Any, inputs: tuple[Any, ...]) -> Any:
        if not any(_is_bf16(x.handle) for x in inputs):
            return apply(self, inputs)
        wide = tuple(tl.tensor(_widen(x.handle), _with_scalar(x.type, tl.float32)) for x in inputs)
        results = apply(self, wide)
        many = isinstance(results, (list, tuple))
        narrow = [
            tl.tensor(_round(y.handle.data), _with_scalar(y.type, tl.bfloat16)) if _is_bf16(x.handle) else y
            for x, y in zip(inputs, results if many else (results,), strict=True)
        ]
        return narrow if many else narrow[0]

    return repaired


def _with_scalar(kind: Any, scalar: Any) -> Any:
    return tl.block_type(scalar, kind.shape) if kind.is_block() else scalar


# --- sanitizer --------------------------------------------------------------------------------------------------------

NOBODY, MANY = -1, -2  # owners of a byte of memory, next to the numbers of programs


class _Memory:
    """One storage: which of its bytes begin an element that the kernel was given, who wrote and who read them."""

    def __init__(self, storage: torch.UntypedStorage) -> None:
        self.base = storage.data_ptr()
        self.given = np.zeros(storage.nbytes(), bool)
        self.writer = np.full(storage.nbytes(), NOBODY, np.int32)
        self.reader = np.full(storage.nbytes(), NOBODY, np.int32)

    def give(self, tensor: torch.Tensor) -> None:
        """Only the elements of the view: a slice's gaps and its neighbours stay out of bounds."""
        offsets = torch.zeros(tuple(tensor.shape), dtype=torch.int64)
        for axis, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
            shape = [-1 if i == axis else 1 for i in range(tensor.dim())]
            offsets += (torch.arange(size) * stride).view(shape)
        self.given[(offsets.flatten().numpy() + tensor.storage_offset()) * tensor.element_size()] = True


class _Sanitizer:
    def __init__(self) -> None:
        self.memories: list[_Memory] = []

    def launch(self, arguments: list[Any]) -> None:
        """Forget the last launch; learn what this one may touch."""
        memories: dict[int, _Memory] = {}
        for tensor in arguments:
            if isinstance(tensor, torch.Tensor) and tensor.numel():
                storage = tensor.untyped_storage()
                memories.setdefault(storage.data_ptr(), _Memory(storage)).give(tensor)
        self.memories = list(memories.values())

    def load(self, addresses: np.ndarray) -> None:
        program = _program()
        for memory, at in self._find(addresses, "load"):
            writer = memory.writer[at]
            self._refuse("race", "load", (writer != NOBODY) & (writer != program), "another program writes")
            reader = memory.reader[at]
            memory.reader[at] = np.where((reader == NOBODY) | (reader == program), program, MANY)

    def store(self, addresses: np.ndarray) -> None:
        program = _program()
        if np.unique(addresses).size != addresses.size:
            raise AssertionError(f"race: two lanes of a store in {_program_name()} write one element")
        for memory, at in self._find(addresses, "store"):
            for owner, action in ((memory.writer[at], "writes"), (memory.reader[at], "reads")):
                self._refuse("race", "store", (owner != NOBODY) & (owner != program), f"another program {action}")
            memory.writer[at] = program

    def _find(self, addresses: np.ndarray, access: str) -> Iterator[tuple[_Memory, np.ndarray]]:
        outside = np.ones(addresses.shape, bool)
        for memory in self.memories:
            at = addresses - memory.base
            inside = (at >= 0) & (at < memory.given.size)
            at = at[inside]
            if at.size:
                outside[inside] = ~memory.given[at]
                yield memory, at
        self._refuse("out of bounds", access, outside, "no argument holds")

    @staticmethod
    def _refuse(fault: str, access: str, lanes: np.ndarray, what: str) -> None:
        if lanes.any():
            count = f"{lanes.sum()} of {lanes.size} lanes"
            raise AssertionError(f"{fault}: {access} in {_program_name()}: {count} touch elements that {what}")


def _program() -> int:
    builder = triton_interpreter.interpreter_builder
    return int(np.ravel_multi_index(builder.grid_idx, builder.grid_dim))


def _program_name() -> str:
    return f"program {triton_interpreter.interpreter_builder.grid_idx}"


def _unmasked(pointers: Any, mask: Any) -> np.ndarray:
    addresses, live = np.broadcast_arrays(pointers.data, mask.data)
    return addresses[live.astype(bool)].astype(np.int64)


def _nan(shape: tuple[int, ...], kind: Any) -> Any:
    if kind == tl.bfloat16:
        return Handle(np.full(shape, BF16_NAN), kind)
    dtype = triton_interpreter._get_np_dtype(kind)
    return Handle(np.full(shape, np.nan if dtype.kind == "f" else np.iinfo(dtype).max, dtype), kind)


@contextmanager
def sanitized() -> Iterator[None]:
    """Kernels launched inside fail (``InterpreterError``) on an access outside their arguments, on a race between
    programs, between lanes, and on atomics, whose sums have no order. What was never written is NaN: new tensors, and
    masked-off lanes of a load without ``other``.
    """
    sanitizer = _Sanitizer()
    executor = triton_interpreter.GridExecutor
    arguments, load, store = executor._init_args_hst, Builder.create_masked_load, Builder.create_masked_store
    atomics = Builder.create_atomic_rmw, Builder.create_atomic_cas
    deterministic = torch.are_deterministic_algorithms_enabled()

    def checked_arguments(self: Any, args: Any, kwargs: Any) -> Any:
        host_args, host_kwargs = arguments(self, args, kwargs)
        sanitizer.launch([*host_args, *host_kwargs.values()])
        return host_args, host_kwargs

    def checked_load(self: Any, pointers: Any, mask: Any, other: Any, *options: Any, **named: Any) -> Any:
        sanitizer.load(_unmasked(pointers, mask))
        kind = pointers.get_element_ty()
        if other is None and not isinstance(kind, tl.pointer_type) and kind != tl.int1:
            other = _nan(pointers.data.shape, kind)
        return load(self, pointers, mask, other, *options, **named)

    def checked_store(self: Any, pointers: Any, value: Any, mask: Any, *options: Any, **named: Any) -> Any:
        sanitizer.store(_unmasked(pointers, mask))
        return store(self, pointers, value, mask, *options, **named)

    def refused(self: Any, *_: Any) -> Any:
        raise AssertionError(f"atomic in {_program_name()}")

    executor._init_args_hst = checked_arguments
    Builder.create_masked_load, Builder.create_masked_store = checked_load, checked_store
    Builder.create_atomic_rmw = Builder.create_atomic_cas = refused
    torch.use_deterministic_algorithms(True)  # fills new tensors with NaN
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic)
        executor._init_args_hst = arguments
        Builder.create_masked_load, Builder.create_masked_store = load, store
        Builder.create_atomic_rmw, Builder.create_atomic_cas = atomics


# --- traffic ----------------------------------------------------------------------------------------------------------

SECTOR = 32  # bytes: the unit in which a GPU reads its memory


class Traffic:
    """Loads of elements of ``size`` bytes: how many sectors they touched, for one that their bytes would fill."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.loads: dict[int, list[np.ndarray]] = {}  # program → addresses of each load

    def add(self, program: int, addresses: np.ndarray) -> None:
        self.loads.setdefault(program, []).append(np.unique(addresses))

    @property
    def ratio(self) -> float:
        """Each load for itself."""
        return self._ratio([load for loads in self.loads.values() for load in loads])

    @property
    def ratio_of_programs(self) -> float:
        """All loads of a program at once, as if it had a cache."""
        return self._ratio([np.unique(np.concatenate(loads)) for loads in self.loads.values()])

    def _ratio(self, loads: list[np.ndarray]) -> float:
        touched = sum(np.unique(addresses // SECTOR).size for addresses in loads)
        return touched / sum(-(-addresses.size * self.size // SECTOR) for addresses in loads)


@contextmanager
def counted_loads() -> Iterator[dict[tuple[str, str], Traffic]]:
    """What the kernels launched inside read, by kernel and argument. A load counts with the whole tile that it reads:
    Triton deals the elements out so that those of a warp lie side by side, whichever axis comes first.
    """
    found: dict[tuple[str, str], Traffic] = {}
    storages: dict[str, tuple[int, int]] = {}  # argument → first byte and last of its storage
    kernel = ""
    executor = triton_interpreter.GridExecutor
    arguments, load = executor._init_args_hst, Builder.create_masked_load

    def seen_arguments(self: Any, args: Any, kwargs: Any) -> Any:
        nonlocal kernel
        host_args, host_kwargs = arguments(self, args, kwargs)
        kernel = self.fn.__name__
        storages.clear()
        for name, x in [*zip(self.arg_names, host_args, strict=False), *host_kwargs.items()]:
            if isinstance(x, torch.Tensor):
                storages[name] = x.data_ptr(), x.untyped_storage().data_ptr() + x.untyped_storage().nbytes()
        return host_args, host_kwargs

    def counted_load(self: Any, pointers: Any, mask: Any, *options: Any, **named: Any) -> Any:
        addresses = _unmasked(pointers, mask)
        if addresses.size:
            name = next(name for name, (first, end) in storages.items() if first <= addresses[0] < end)
            size = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
            found.setdefault((kernel, name), Traffic(size)).add(_program(), addresses)
        return load(self, pointers, mask, *options, **named)

    executor._init_args_hst, Builder.create_masked_load = seen_arguments, counted_load
    try:
        yield found
    finally:
        executor._init_args_hst, Builder.create_masked_load = arguments, load


# --- mutants ----------------------------------------------------------------------------------------------------------


def mutant(module: ModuleType, old: str, new: str, folder: Path) -> ModuleType:
    """``module`` with the one occurrence of ``old`` in its source replaced; written to ``folder``, as Triton reads the
    source of its kernels from files.
    """
    assert module.__file__ is not None
    source = Path(module.__file__).read_text()
    assert source.count(old) == 1, f"{source.count(old)} occurrences of {old!r} in {module.__name__}"
    path = folder / f"{module.__name__.rpartition('.')[2]}.py"
    path.write_text(source.replace(old, new))
    spec = importlib.util.spec_from_file_location(f"{module.__name__}_mutant", path)
    assert spec is not None
    assert spec.loader is not None
    mutated = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mutated)
    return mutated


_repair_bfloat16()
