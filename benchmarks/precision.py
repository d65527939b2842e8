"""Precisions that benchmarks run in, and how far from float64 a result may be in each."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}  # relative RMS error against float64


class Precision(NamedTuple):
    """``tf32``: products of float32 may be rounded to TF32."""

    dtype: torch.dtype
    tf32: bool
    tolerance: float

    @property
    def half(self) -> bool:
        """Sixteen bits: models run under autocast."""
        return self.dtype.itemsize < 4


PRECISIONS = {
    "fp32": Precision(torch.float32, False, TOLERANCE[torch.float32]),
    "tf32": Precision(torch.float32, True, 2e-3),  # TF32 keeps 10 bits: 3e-4 for a convolution, more for a chain
    "bf16": Precision(torch.bfloat16, False, TOLERANCE[torch.bfloat16]),
    "fp16": Precision(torch.float16, False, TOLERANCE[torch.float16]),
}
PRODUCTS: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)


def set_precision(name: str) -> Precision:
    """Lets PyTorch's products and ours be rounded to TF32, or not."""
    chosen = PRECISIONS[name]
    for products in PRODUCTS:
        products.fp32_precision = "tf32" if chosen.tf32 else "ieee"
    return chosen


def precisions(device: str, tiny: bool = False) -> tuple[str, ...]:
    """TF32 is the GPU's alone."""
    if tiny:
        return ("fp32", "bf16")
    return tuple(name for name, kind in PRECISIONS.items() if device == "cuda" or not kind.tf32)


def autocast(device: str, precision: str) -> AbstractContextManager[Any]:
    """Within, models of float32 compute in sixteen bits where the precision has no more."""
    kind = PRECISIONS[precision]
    return torch.autocast(device, kind.dtype) if kind.half else nullcontext()
