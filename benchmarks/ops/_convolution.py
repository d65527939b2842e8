"""What the benchmarks of convolutions share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from benchmarks.common import Target
from benchmarks.harness import LAYOUTS, Case


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
