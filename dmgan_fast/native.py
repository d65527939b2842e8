"""The native libraries, loaded on first use: ``dmgan_fast._C`` for CPUs, ``dmgan_fast._cuda`` for NVIDIA cards."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmgan_fast import layouts
from dmgan_fast.errors import BackendError

LIBRARIES = {"cpu": "dmgan_fast._C", "cuda": "dmgan_fast._cuda"}
BUILD = {
    "cpu": "build it with `make build` (or `pip install --no-build-isolation -e .`)",
    "cuda": "build it with `DMGAN_FAST_CUDA=1 pip install --no-build-isolation -e .`, which needs a CUDA toolkit",
}


def library_file(kind: str = "cpu") -> Path | None:
    """The built library, or None."""
    spec = importlib.util.find_spec(LIBRARIES[kind])
    return Path(spec.origin) if spec and spec.origin else None


@cache
def load(kind: str = "cpu") -> Any:
    """Load a library once and return its operators, ``torch.ops.dmgan_fast_cpu`` or ``torch.ops.dmgan_fast_cuda``.

    Raises:
        BackendError: if it was not built, or does not load with this PyTorch; says what to do.
    """
    file = library_file(kind)
    if file is None:
        raise BackendError(f"the native {kind} library of dmgan_fast is not built; {BUILD[kind]}")
    try:
        torch.ops.load_library(file)
        operators = getattr(torch.ops, f"dmgan_fast_{kind}")
        target = operators.target_version()
    except (OSError, RuntimeError, AttributeError) as error:
        raise BackendError(
            f"{file.name} does not load with torch {torch.__version__}: {error}; {BUILD[kind]}"
        ) from error
    if target != 2011:
        raise BackendError(f"{file.name} is from another version of dmgan_fast (target {target}); {BUILD[kind]}")
    if kind not in _with_shapes:
        for name, shapes in SHAPES.items():
            if hasattr(operators, name):  # convolutions and layouts are the CPU library's alone
                torch.library.register_fake(f"dmgan_fast_{kind}::{name}", shapes)
        _with_shapes.add(kind)
        if kind == "cpu":
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


def _conv3x3(x: Tensor, weight: Tensor) -> Tensor:
    return layouts.empty_picture(x, weight.shape[0], *x.shape[2:])


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
    "relayout": _relayout,
    "upsample_conv3x3_forward": _upsample_conv3x3,
    "upsample_conv3x3_backward": _conv_backward,
}


# Floating point operations as they are done: 16 products for 4 pixels of conv3x3, 9 for a pixel that is up-sampled.


def _conv_flops(products: float) -> tuple[Callable[..., int], Callable[..., int]]:
    def forward(x: tuple[int, ...], weight: tuple[int, ...], **_: Any) -> int:
        return int(2 * products * x[0] * x[2] * x[3] * weight[0] * weight[1])

    def backward(
        grad: tuple[int, ...], x: tuple[int, ...], weight: tuple[int, ...], want_x: bool, want_weight: bool, **_: Any
    ) -> int:
        return (want_x + want_weight) * forward(x, weight)

    return forward, backward


FLOPS = dict(zip(("conv3x3_forward", "conv3x3_backward"), _conv_flops(16 / 4), strict=True))
FLOPS |= dict(zip(("upsample_conv3x3_forward", "upsample_conv3x3_backward"), _conv_flops(9), strict=True))
_with_shapes: set[str] = set()
