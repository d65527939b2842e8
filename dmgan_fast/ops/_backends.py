"""Which backend runs an op on given inputs and, if one can't, why not."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from dmgan_fast import contract, native
from dmgan_fast.aten import conv3x3, conv4x4_stride2, folded_conv3x3, memory_write, upsample_conv3x3
from dmgan_fast.devices import planned
from dmgan_fast.errors import BackendError, InputError
from dmgan_fast.ops import _dispatch

Backend = Literal["auto", "cuda", "triton", "aten", "cpu", "reference"]
BACKENDS: tuple[str, ...] = get_args(Backend)
CONVOLUTIONS = {
    "conv3x3": conv3x3,
    "conv4x4_stride2": conv4x4_stride2,
    "folded_conv3x3": folded_conv3x3,
    "upsample_conv3x3": upsample_conv3x3,
}
OPS = tuple(op.name for op in contract.OPS.values() if op.functions)
VARIABLE = "DMGAN_FAST_BACKEND"

_log = logging.getLogger("dmgan_fast")
_announced: set[tuple[str, str]] = set()


class Kernels(NamedTuple):
    """A backend that has kernels (see docs/backends.md).

    ``why_not(op)``: None if this machine can run it, else the reason. ``load(op)``: an object whose attributes are the
    contract's functions. ``devices``: the device types it runs on here.
    """

    why_not: Callable[[str], str | None]
    load: Callable[[str], Any]
    devices: Callable[[], tuple[str, ...]]


OLDEST_CARD = (8, 0)  # compute capability: bfloat16 and asynchronous copies
PLANNED_CARD = (9, 0)


def _card_why_not() -> str | None:
    """None if PyTorch sees a GPU that the kernels are made for, else the reason."""
    if not torch.cuda.is_available():
        return "PyTorch sees no CUDA device"
    capability = torch.cuda.get_device_capability()
    if torch.version.hip is None and capability < OLDEST_CARD:
        return f"the GPU has compute capability {capability[0]}.{capability[1]}, the kernels need 8.0"
    return None


def _native_why_not(kind: str) -> Callable[[str], str | None]:
    def why_not(op: str) -> str | None:
        reason = _card_why_not() if kind == "cuda" else None
        if reason:
            return reason
        try:
            native.load(kind)
        except BackendError as error:
            return str(error)
        return None

    return why_not


def _cpu_load(op: str) -> Any:
    """Convolutions choose a layout, and PyTorch's own kernels where those are best; the rest is the native library."""
    return CONVOLUTIONS.get(op) or native.load("cpu")


@cache
def cuda_kernels(op: str, library: Any) -> Any:
    """The CUDA library's kernels of an op, and PyTorch's for what they do not do: the gradients of memory_write, and
    memory_read of long captions.
    """
    if op == "memory_write":
        backward = memory_write.memory_write_backward
        return SimpleNamespace(memory_write_forward=library.memory_write_forward, memory_write_backward=backward)
    if op == "memory_read":
        return importlib.import_module("dmgan_fast.kernels._long_captions").behind_cuda(library)
    return library


def _cuda_load(op: str) -> Any:
    return cuda_kernels(op, native.load("cuda"))


ATEN = {
    "upsample_conv3x3": SimpleNamespace(
        upsample_conv3x3_forward=upsample_conv3x3.transposed_forward,
        upsample_conv3x3_backward=upsample_conv3x3.transposed_backward,
    )
}


def _triton_interprets() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def _triton_why_not(op: str) -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if _triton_interprets():
        return None
    reason = _card_why_not()
    if reason is None and op == "memory_read" and torch.version.hip is None:
        found = version("triton")
        if torch.cuda.get_device_capability()[0] == 10 and tuple(map(int, found.split(".")[:2])) < (3, 8):
            return f"triton {found} can't compile it for GPUs of compute capability 10, triton 3.8 can"
    return f"{reason} (TRITON_INTERPRET=1 runs the kernels in Triton's slow interpreter on the CPU)" if reason else None


@cache
def _triton_load(op: str) -> Any:
    return importlib.import_module(f"dmgan_fast.kernels.{op}")


REGISTRY = {
    "cuda": Kernels(_native_why_not("cuda"), _cuda_load, lambda: ("cuda",)),
    "triton": Kernels(_triton_why_not, _triton_load, lambda: ("cpu",) if _triton_interprets() else ("cuda",)),
    "aten": Kernels(lambda op: None, ATEN.__getitem__, lambda: ("cpu", "cuda")),
    "cpu": Kernels(_native_why_not("cpu"), _cpu_load, lambda: ("cpu",)),
}


def why_not(op: str, backend: str) -> str | None:
    """None if this machine can run ``op`` on ``backend``, else the reason."""
    if backend == "reference":
        return None
    if backend in contract.BACKENDS and backend not in contract.OPS[op].kernels:
        return "it has no kernel of this op; the reference runs it"
    return REGISTRY[backend].why_not(op)


def _refuses(op: str, backend: str, device: str, dtype: torch.dtype, sizes: tuple[int, ...]) -> str | None:
    """None if ``backend`` can run ``op`` on such tensors here, else the reason. ``sizes``: those that have limits."""
    if backend == "reference":
        return None
    devices = REGISTRY[backend].devices()
    if device not in (*devices, "meta"):
        return f"the tensors are on {device}, it runs on {' and '.join(devices)}"
    if dtype not in contract.FLOATS:
        return f"it takes float32, bfloat16 and float16, got {dtype}; {dtype} runs on the reference"
    for (axis, limit), size in zip(contract.OPS[op].limits.items(), sizes, strict=True):
        if size > limit:
            return f"it takes at most {limit} {contract.AXES[axis]}, got {size}"
    return why_not(op, backend)


def _choose(
    op: str, backend: str | None, device: torch.device, dtype: torch.dtype, sizes: tuple[int, ...], elements: int
) -> str:
    wanted = backend or os.environ.get(VARIABLE) or "auto"
    if planned() is not None:
        return wanted if wanted in REGISTRY else _planned_choice(op, wanted, dtype, elements)
    if wanted not in BACKENDS and wanted not in REGISTRY:
        origin = "backend" if backend else VARIABLE
        raise InputError(f"{op}: {origin} must be one of {', '.join(BACKENDS)}, got {wanted!r}")
    return _resolve(op, wanted, device, dtype, sizes, elements, _triton_interprets())


def _planned_choice(op: str, wanted: str, dtype: torch.dtype, elements: int) -> str:
    """The best backend of a GPU that is planned for, and need not be here."""
    if wanted == "reference" or dtype not in contract.FLOATS:
        return "reference"
    return _dispatch.order_on_gpu(op, dtype, PLANNED_CARD, elements)[0]


@cache
def _resolve(
    op: str,
    wanted: str,
    device: torch.device,
    dtype: torch.dtype,
    sizes: tuple[int, ...],
    elements: int,
    interprets: bool,
) -> str:
    """Remembered: asking the machine what it has costs more than launching a kernel."""

    from dmgan_fast.ops import selfcheck  # a sixth of the package's own time to import, and not needed for that

    def refuses(name: str) -> str | None:
        found = _refuses(op, name, device.type, dtype, sizes)
        return found or selfcheck.refusal(op, name, device, dtype)

    if wanted != "auto":
        reason = refuses(wanted)
        if reason:
            raise BackendError(f"{op}: backend {wanted!r} can't run: {reason}")
        return wanted
    # The interpreter is for proofs: nobody wants it by default.
    names = [name for name in _order(op, device, dtype, elements) if not (name == "triton" and interprets)]
    chosen = next(name for name in names if refuses(name) is None)
    if chosen == "reference" and "cpu" in names and dtype in contract.FLOATS:
        native.warn_if_missing()
    if (op, chosen) not in _announced:
        _announced.add((op, chosen))
        _log.info("%s runs on the %s backend", op, chosen)
    return chosen


def forget() -> None:
    """Ask the machine anew at the next call of each op."""
    _resolve.cache_clear()


def _order(op: str, device: torch.device, dtype: torch.dtype, elements: int) -> tuple[str, ...]:
    """What ``auto`` tries, best first."""
    if device.type == "cuda" and torch.cuda.is_available():
        return _dispatch.order_on_gpu(op, dtype, torch.cuda.get_device_capability(device), elements)
    return "cpu", "reference"


# Compiled code takes the choice as a constant. That is all torch.compiler.assume_constant_result does, but it imports
# torch._dynamo and with it Triton, which takes a second.
_choose._dynamo_marked_constant = True  # type: ignore[attr-defined]


def choose(op: contract.Op, backend: str | None, tensor: Tensor, sizes: contract.Sizes) -> str:
    """The name of the backend that runs ``op`` on inputs like ``tensor``, whose ``sizes`` the contract has found.

    ``backend=None`` takes ``DMGAN_FAST_BACKEND`` or ``"auto"``. Under autocast the dtype is autocast's.

    Raises:
        InputError: for an unknown name.
        BackendError: if a backend was asked for by name and can't run.
    """
    limited = tuple([sizes[axis] for axis in op.limits]) if op.limits else ()
    on_gpu = tensor.device.type == "cuda" or (not torch.compiler.is_compiling() and planned() == "cuda")
    elements = _dispatch.size_class(op.name, tensor.numel()) if on_gpu else 0
    return _choose(op.name, backend, tensor.device, autocast_dtype(tensor), limited, elements)


def function(backend: str, op: str, name: str) -> Callable[..., Any]:
    """A function of the contract (docs/backends.md)."""
    if planned() is not None and backend in ("cuda", "triton"):
        if (backend, name) == ("cuda", "memory_write_backward"):  # as _cuda_load has it
            return memory_write.memory_write_backward
        backend = "reference" if why_not(op, "cpu") else "cpu"  # without data all others are alike
    if backend == "reference":
        kernels: Any = importlib.import_module(f"dmgan_fast.reference.{op}")
    else:
        kernels = REGISTRY[backend].load(op)
    found: Callable[..., Any] = getattr(kernels, name)
    return _on_device_of_first(found) if backend == "triton" else found


@cache
def _on_device_of_first(function: Callable[..., Any]) -> Callable[..., Any]:
    """Triton launches on the current device, wherever the tensors are: here it is that of the first argument."""

    def run(first: Tensor, *others: Any) -> Any:
        with torch.cuda.device_of(first):  # type: ignore[no-untyped-call]
            return function(first, *others)

    return run


def autocast_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype autocast computes in for ``tensor``; its own without autocast, or if it is float64."""
    kind = tensor.device.type
    if tensor.dtype != torch.float64 and kind != "meta" and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return tensor.dtype


def _takes(op: str, backend: str) -> str:
    if backend == "reference":
        return "yes: every float type, second derivatives"
    dtypes = (str(dtype).removeprefix("torch.") for dtype in contract.FLOATS)
    limits = (f"at most {limit} {contract.AXES[axis]}" for axis, limit in contract.OPS[op].limits.items())
    return f"yes: {', '.join((*dtypes, *limits))}"


def table() -> dict[str, dict[str, str]]:
    """Op → backend → ``"yes: "`` and what it takes, or the reason why not, for this machine."""
    return {op: {name: why_not(op, name) or _takes(op, name) for name in BACKENDS[1:]} for op in OPS}
