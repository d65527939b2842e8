"""Batch norm + GLU in training: authors' form, compiled, F.glu, fused; NCHW and channels-last."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks import authors, work
from benchmarks.harness import LAYOUTS, Case, Target, run
from dmgan_fast import functional

BATCH = 4


def reference(x: Tensor, weight: Tensor, bias: Tensor, **fixed: Any) -> Tensor:
    """Batch norm and F.glu."""
    fixed = {name: value.to(x.dtype) if isinstance(value, Tensor) else value for name, value in fixed.items()}
    y = functional.batch_norm_glu(x, weight, bias, **fixed, backend="reference")
    assert isinstance(y, Tensor)
    return y


def fused(backend: str, x: Tensor, weight: Tensor, bias: Tensor, **fixed: Any) -> Tensor:
    y = functional.batch_norm_glu(x, weight, bias, **fixed, backend=backend)
    assert isinstance(y, Tensor)
    return y


def target_statistics(target: Target, channels: int) -> dict[str, Any]:
    kind = {"device": target.device, "dtype": target.dtype}
    return {
        "running_mean": torch.zeros(channels, **kind),
        "running_var": torch.ones(channels, **kind),
        "training": True,
    }


def case(target: Target, *, batch: int = BATCH, channels: int = 256, side: int = 128, layout: str = "NCHW") -> Case:
    """``layout``: NCHW or channels-last."""
    x = torch.randn(batch, channels, side, side).contiguous(memory_format=LAYOUTS[layout])
    return Case(
        "batch_norm_glu",
        f"B{batch} {channels}->{channels // 2} {side}x{side} {layout}",
        target.place({"x": x, "weight": torch.rand(channels) + 0.5, "bias": torch.randn(channels)}),
        target_statistics(target, channels),
        ("weight", "bias"),
        reference,
        {
            "authors": authors.batch_norm_glu,
            "authors+compile": torch.compile(authors.batch_norm_glu),
            "reference": reference,
            **{name: partial(fused, backend) for name, backend in target.backends().items()},
        },
        work.batch_norm_glu(batch, channels, side**2, target.dtype.itemsize),
    )


def cases(target: Target) -> Iterator[Case]:
    for channels, side in ((256, 128), (128, 256)):
        for layout in LAYOUTS:
            yield case(target, channels=channels, side=side, layout=layout)


if __name__ == "__main__":
    run({"batch_norm_glu": cases}, __doc__ or "")
