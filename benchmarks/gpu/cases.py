"""The ops' cases of ``benchmarks.ops`` at sizes for a GPU and at odd ones, and how exact products are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from benchmarks.common import Target
from benchmarks.harness import LAYOUTS, TOLERANCE, Case, is_out_of_memory
from benchmarks.ops import batch_norm_glu, memory_path, upsample_conv3x3, words_similarity
from dmgan_fast.errors import BackendError


class Precision(NamedTuple):
    """``tf32``: products of float32 may be rounded to TF32."""

    dtype: torch.dtype
    tf32: bool
    tolerance: float


PRECISIONS = {
    "fp32": Precision(torch.float32, False, TOLERANCE[torch.float32]),
    "tf32": Precision(torch.float32, True, 2e-3),  # TF32 keeps 10 bits: 3e-4 for a convolution, more for a chain
    "bf16": Precision(torch.bfloat16, False, TOLERANCE[torch.bfloat16]),
    "fp16": Precision(torch.float16, False, TOLERANCE[torch.float16]),
}
PRODUCTS: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)
OPS: dict[str, Callable[..., Case]] = {
    "memory_path": memory_path.case,
    "attention_read": memory_path.attention_case,
    "batch_norm_glu": batch_norm_glu.case,
    "upsample_conv3x3": upsample_conv3x3.case,
    "words_similarity": words_similarity.case,
}
ODD: dict[str, list[dict[str, Any]]] = {
    "memory_path": [{"batch": 3, "side": 7, "words": 5}, {"batch": 2, "side": 13, "words": 33}],
    "attention_read": [{"batch": 3, "side": 7, "words": 5}],
    "batch_norm_glu": [{"batch": 3, "channels": 10, "side": 7, "layout": layout} for layout in LAYOUTS],
    "upsample_conv3x3": [{"batch": 3, "channels": 12, "side": 5, "layout": layout} for layout in LAYOUTS],
    "words_similarity": [{"batch": 5, "words": 7, "channels": 40}],
}


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


def birds(batch: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each op at the widths of the birds' model."""
    for side in (64, 128):
        yield "memory_path", {"batch": batch, "side": side}
    yield "attention_read", {"batch": batch}
    for layout in LAYOUTS:
        yield "batch_norm_glu", {"batch": batch, "layout": layout}
        yield "upsample_conv3x3", {"batch": batch, "layout": layout}
    yield "words_similarity", {"batch": batch}


def odd() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each op at small sizes that fill no tile."""
    yield from ((op, settings) for op, all_settings in ODD.items() for settings in all_settings)


def make(op: str, settings: dict[str, Any], precision: str, device: str, seed: int = 0) -> Case:
    """A case without the compiled implementations, whose compilation would take all the time."""
    torch.manual_seed(seed)
    with torch.device(device):
        case = OPS[op](Target(device, PRECISIONS[precision].dtype), **settings)
    case.implementations = {k: f for k, f in case.implementations.items() if "compile" not in k}
    return case


def told(error: RuntimeError) -> dict[str, Any]:
    """What a row says of an implementation that raised."""
    if isinstance(error, BackendError):
        return {"unavailable": str(error)}
    if is_out_of_memory(error):
        return {"out_of_memory": True}
    return {"correct": False, "failed": f"{type(error).__name__}: {error}"[:300]}
