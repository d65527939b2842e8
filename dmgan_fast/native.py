"""The native libraries, loaded on first use: ``dmgan_fast._cuda`` for NVIDIA GPUs, for CPUs the best of those built.

A level of CPU (``sse2``, ``avx2``, ``avx512``, ``neon``) is a library of its own, ``dmgan_fast._cpu_<level>``, from the
same sources; ``dmgan_fast._cpu`` tells which of them this CPU can run. ``DMGAN_FAST_CPU`` asks for one by name.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmgan_fast import layouts
from dmgan_fast.errors import BackendError, InputError

LEVELS = ("avx512", "avx2", "sse2", "neon", "portable")  # a CPU runs one and those after it of its kind
LEVEL_VARIABLE = "DMGAN_FAST_CPU"
OLDEST_TORCH = (2, 11)
_log = logging.getLogger("dmgan_fast")
BUILD = {
    "cpu": "with a C++20 compiler and Python's headers (Debian: `apt install g++ python3-dev`), build it by `make "
    "build` in a checkout, or `pip install --no-build-isolation --no-deps --force-reinstall --no-cache-dir` the sdist",
    "cuda": "build it with `DMGAN_FAST_CUDA=1 pip install --no-build-isolation -e .`, which needs a CUDA toolkit",
}


def library_file(library: str) -> Path | None:
    """The built library ``dmgan_fast._<library>``, or None."""
    spec = importlib.util.find_spec(f"dmgan_fast._{library}")
    return Path(spec.origin) if spec and spec.origin else None


def built_levels() -> tuple[str, ...]:
    """CPU levels that were built, best first."""
    return tuple(level for level in LEVELS if library_file(f"cpu_{level}"))


def cpu_levels() -> tuple[str, ...]:
    """CPU levels that were built and that this CPU can run, best first.

    Raises:
        BackendError: if nothing was built.
    """
    if library_file("cpu") is None:
        raise BackendError(f"the native CPU library of dmgan_fast is not built; {BUILD['cpu']}")
    runs: tuple[str, ...] = importlib.import_module("dmgan_fast._cpu").levels()
    return tuple(level for level in built_levels() if level in runs)


@cache
def warn_if_missing() -> None:
    """Say once that the reference does the CPU library's work, why, and what helps, if so it is."""
    try:
        load("cpu")
    except BackendError as error:
        _log.warning("dmgan_fast runs on its slow reference: %s", error)


def compiler() -> str:
    """Name and version of the compiler that built the CPU libraries."""
    found: str = importlib.import_module("dmgan_fast._cpu").compiler()
    return found


def cpu_level() -> str:
    """The CPU level in use: the best there is, or the one that ``DMGAN_FAST_CPU`` names.

    Raises:
        BackendError: if nothing was built.
        InputError: if ``DMGAN_FAST_CPU`` names a level that is not among ``cpu_levels()``; says which are.
    """
    there, wanted = cpu_levels(), os.environ.get(LEVEL_VARIABLE)
    if wanted and wanted not in there:
        built = ", ".join(built_levels())
        raise InputError(
            f"{LEVEL_VARIABLE} must be one of {', '.join(there)} on this CPU, got {wanted!r} (built: {built})"
        )
    if not there:
        raise BackendError(f"no native CPU library for this CPU is built (built: {', '.join(built_levels())})")
    return wanted or there[0]


@cache
def load(kind: str = "cpu") -> Any:
    """Load a library once and return its operators: of the GPU with ``"cuda"``, of the CPU level in use with ``"cpu"``.

    Raises:
        BackendError: if it was not built, or does not load with this PyTorch; says what to do.
    """
    return _load(f"cpu_{cpu_level()}" if kind == "cpu" else kind)


def _load(library: str) -> Any:
    how = BUILD[library.split("_")[0]]
    if tuple(map(int, torch.__version__.split(".")[:2])) < OLDEST_TORCH:
        raise BackendError(f"dmgan_fast needs torch 2.11 or newer, here is {torch.__version__}: `pip install -U torch`")
    file = library_file(library)
    if file is None:
        raise BackendError(f"the native {library} library of dmgan_fast is not built; {how}")
    try:
        torch.ops.load_library(file)
        operators = getattr(torch.ops, f"dmgan_fast_{library}")
        target = operators.target_version()
    except (OSError, RuntimeError, AttributeError) as error:
        raise BackendError(f"{file.name} does not load with torch {torch.__version__}: {error}; {how}") from error
    if target != 2011:
        raise BackendError(f"{file.name} is from another version of dmgan_fast (target {target}); {how}")
    if library not in _with_shapes:
        for name, shapes in SHAPES.items():
            if hasattr(operators, name):  # convolutions and layouts are the CPU libraries' alone
                torch.library.register_fake(f"dmgan_fast_{library}::{name}", shapes)
        _with_shapes.add(library)
        if library != "cuda":
            from torch.utils.flop_counter import register_flop_formula  # which imports Triton

            for name, flops in FLOPS.items():
                register_flop_formula(getattr(operators, name))(flops)
    return operators


# ------------------------------------------------------------------ results of tensors without data (docs/backends.md)


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    return _per_channel(x), _per_channel(x)


def _forward(
    x: Tensor, weight: Any, bias: Any, skip: Tensor | None, mean: Any, var: Any, eps: float, want_mean: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    channels = x.shape[1] if skip is not None else x.shape[1] // 2
    spatial_mean = x.new_empty((x.shape[0], channels) if want_mean else (0,), dtype=torch.float32)
    y = layouts.empty_picture(x, channels, *x.shape[2:])
    return y, _per_channel(x), _per_channel(x), _per_channel(x), spatial_mean


def _reduce(grad: Tensor, grad_mean: Any, x: Tensor, *others: Any) -> Tensor:
    return x.new_empty((2, x.shape[1]), dtype=torch.float32)


def _backward(grad: Tensor, grad_mean: Any, x: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    return layouts.empty_picture(x, *x.shape[1:]), _per_channel(x), _per_channel(x)


def _relayout(x: Tensor) -> Tensor:
    back = layouts.is_channels_last(x)
    return torch.empty_like(x, memory_format=torch.contiguous_format if back else torch.channels_last)


def _conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return layouts.empty_picture(x, weight.shape[0], *x.shape[2:])


def _conv4x4_stride2(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return layouts.empty_picture(x, weight.shape[0], x.shape[2] // 2, x.shape[3] // 2)


def _upsample_conv3x3(x: Tensor, weight: Tensor) -> Tensor:
    return layouts.empty_picture(x, weight.shape[0], 2 * x.shape[2], 2 * x.shape[3])


def _conv_backward(grad: Tensor, x: Tensor, weight: Tensor, want_x: bool, want_weight: bool) -> tuple[Tensor, Tensor]:
    grad_x = layouts.empty_picture(x, *x.shape[1:]) if want_x else x.new_empty(0)
    return grad_x, weight.new_empty(weight.shape if want_weight else 0)


def _per_channel(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[1], dtype=torch.float32)


SHAPES: dict[str, Callable[..., Any]] = {
    "batch_norm_glu_statistics": _statistics,
    "batch_norm_glu_forward": _forward,
    "batch_norm_glu_reduce": _reduce,
    "batch_norm_glu_backward": _backward,
    "conv3x3_forward": _conv3x3,
    "conv3x3_backward": _conv_backward,
    "conv4x4_stride2_forward": _conv4x4_stride2,
    "conv4x4_stride2_backward": _conv_backward,
    "relayout": _relayout,
    "upsample_conv3x3_forward": _upsample_conv3x3,
    "upsample_conv3x3_backward": _conv_backward,
}


# Floating point operations as they are done: products for a pixel of the smaller map and a pair of channels.
PRODUCTS = {"conv3x3": (3, 2.25, 3), "conv4x4_stride2": (9, 9, 9), "upsample_conv3x3": (9, 9, 9)}


def _conv_flops(op: str) -> dict[str, Callable[..., int]]:
    forward_products, x_products, weight_products = PRODUCTS[op]

    def work(a: tuple[int, ...], b: tuple[int, ...], weight: tuple[int, ...]) -> int:
        return 2 * a[0] * min(a[2] * a[3], b[2] * b[3]) * weight[0] * weight[1]

    def forward(x: tuple[int, ...], weight: tuple[int, ...], *_: Any, out_shape: Any, **__: Any) -> int:
        return int(forward_products * work(x, out_shape, weight))

    def backward(
        grad: tuple[int, ...], x: tuple[int, ...], weight: tuple[int, ...], want_x: bool, want_weight: bool, **_: Any
    ) -> int:
        return int((want_x * x_products + want_weight * weight_products) * work(grad, x, weight))

    return {f"{op}_forward": forward, f"{op}_backward": backward}


FLOPS = {name: flops for op in PRODUCTS for name, flops in _conv_flops(op).items()}
_with_shapes: set[str] = set()
