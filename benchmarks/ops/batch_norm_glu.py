"""Batch norm + GLU, and batch norm + skip, in training: authors' form, compiled, PyTorch's, fused; in both layouts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks import authors
from benchmarks.common import Target
from benchmarks.harness import LAYOUTS, Case, ours
from benchmarks.ops import work
from dmgan_fast import functional

BATCH = 4

reference = partial(functional.batch_norm_glu, backend="reference")  # F.batch_norm and F.glu


def case(target: Target, *, batch: int = BATCH, channels: int = 256, side: int = 128, layout: str = "NCHW") -> Case:
    """``layout``: NCHW or channels-last."""
    x = torch.randn(batch, channels, side, side).contiguous(memory_format=LAYOUTS[layout])
    running = torch.zeros(2, channels, device=target.device, dtype=target.dtype)
    return Case(
        "batch_norm_glu",
        f"B{batch} {channels}->{channels // 2} {side}x{side} {layout}",
        target.place({"x": x, "weight": torch.rand(channels) + 0.5, "bias": torch.randn(channels)}),
        {"running_mean": running[0], "running_var": running[1] + 1, "training": True},
        ("weight", "bias"),
        reference,
        {
            "authors": authors.batch_norm_glu,
            "authors+compile": torch.compile(authors.batch_norm_glu),
            "reference": reference,
            **ours(target, functional.batch_norm_glu),
        },
        work.batch_norm_glu(batch, channels, side**2, target.dtype.itemsize),
    )


def skip_case(
    target: Target, *, batch: int = BATCH, channels: int = 128, side: int = 128, layout: str = "NCHW"
) -> Case:
    """The end of a residual block: batch norm, + skip."""
    x, skip = (torch.randn(batch, channels, side, side).contiguous(memory_format=LAYOUTS[layout]) for _ in range(2))
    running = torch.zeros(2, channels, device=target.device, dtype=target.dtype)
    return Case(
        "batch_norm_skip",
        f"B{batch} {channels} {side}x{side} {layout}",
        target.place({"x": x, "skip": skip, "weight": torch.rand(channels) + 0.5, "bias": torch.randn(channels)}),
        {"running_mean": running[0], "running_var": running[1] + 1, "training": True},
        ("weight", "bias"),
        reference,
        {
            "authors": authors.batch_norm_skip,
            "authors+compile": torch.compile(authors.batch_norm_skip),
            **ours(target, functional.batch_norm_glu),
        },
        work.batch_norm_skip(batch, channels, side**2, target.dtype.itemsize),
    )


def cases(target: Target) -> Iterator[Case]:
    for channels, side in ((256, 128), (128, 256)):
        for layout in LAYOUTS:
            yield case(target, channels=channels, side=side, layout=layout)
    for layout in LAYOUTS:
        yield skip_case(target, layout=layout)


def tiny(target: Target) -> Iterator[Case]:
    yield case(target, batch=2, channels=8, side=6)
    yield skip_case(target, batch=2, channels=6, side=5, layout="channels-last")
