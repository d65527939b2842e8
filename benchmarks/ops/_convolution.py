"""What the benchmarks of convolutions share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from benchmarks.common import Target
from benchmarks.harness import LAYOUTS, Case
from benchmarks.ops import cudnn, work
from dmgan_fast import functional
from dmgan_fast.aten.convolutions import STRIDES


def authors(eager: Callable[..., Any], layout: str) -> dict[str, Callable[..., Any]]:
    """The rivals in plain PyTorch, for maps in ``layout``."""
    return {"authors" if layout == "NCHW" else "authors, channels-last": eager, "authors+compile": torch.compile(eager)}


def case_of(
    target: Target,
    op: str,
    sizes: tuple[int, int, int, int, int],
    shown: str,
    layout: str,
    eager: Callable[..., Any],
    implementations: Mapping[str, Callable[..., Any]],
    work: Any,
) -> Case:
    """``op`` of a random map and weight. ``sizes``: batch, inputs, outputs, size of the input, size of the kernel."""
    batch, inputs, outputs, side, taps = sizes
    x = torch.randn(batch, inputs, side, side).contiguous(memory_format=LAYOUTS[layout])
    weight = torch.randn(outputs, inputs, taps, taps) / (taps**2 * inputs) ** 0.5
    name = f"B{batch} {inputs}->{outputs} {shown} {layout}"
    tensors = target.place({"x": x, "weight": weight})
    return Case(op, name, tensors, {}, ("weight",), eager, dict(implementations), work)


def plain_case(
    target: Target,
    *,
    op: str,
    taps: int,
    inputs: int,
    outputs: int,
    batch: int = 4,
    side: int = 64,
    layout: str = "NCHW",
) -> Case:
    """``conv3x3`` or ``conv4x4_stride2``: PyTorch's, ours, and on a GPU cuDNN's other forms.

    ``side``: of the input; ``layout``: NCHW or channels-last.
    """
    function, stride = getattr(functional, op), STRIDES[op]
    eager, after = partial(function, backend="reference"), side // stride
    implementations = authors(eager, layout) | {"dmgan_fast": partial(function)}
    if target.device == "cuda":
        implementations |= cudnn.forms(eager, layout, stride=stride)
    counted = getattr(work, op)(batch, inputs, outputs, after**2, target.dtype.itemsize)
    sizes, shown = (batch, inputs, outputs, side, taps), f"{side}x{side}" if stride == 1 else f"{side}->{after}"
    return case_of(target, op, sizes, shown, layout, eager, implementations, counted)
