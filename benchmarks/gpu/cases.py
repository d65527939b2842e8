"""The ops' cases of ``benchmarks.ops`` at sizes for a GPU and at odd ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks.common import Target
from benchmarks.harness import LAYOUTS, Case, is_out_of_memory
from benchmarks.ops import batch_norm_glu, conv3x3, conv4x4_stride2, memory_path, upsample_conv3x3, words_similarity
from dmgan_fast.errors import BackendError

OPS: dict[str, Callable[..., Case]] = {
    "memory_path": memory_path.case,
    "attention_read": memory_path.attention_case,
    "batch_norm_glu": batch_norm_glu.case,
    "batch_norm_skip": batch_norm_glu.skip_case,
    "conv3x3": conv3x3.case,
    "conv4x4_stride2": conv4x4_stride2.case,
    "upsample_conv3x3": upsample_conv3x3.case,
    "words_similarity": words_similarity.case,
}
ODD: dict[str, list[dict[str, Any]]] = {
    "memory_path": [{"batch": 3, "side": 7, "words": 5}, {"batch": 2, "side": 13, "words": 33}],
    "attention_read": [{"batch": 3, "side": 7, "words": 5}],
    "batch_norm_glu": [{"batch": 3, "channels": 10, "side": 7, "layout": layout} for layout in LAYOUTS],
    "batch_norm_skip": [{"batch": 3, "channels": 10, "side": 7, "layout": layout} for layout in LAYOUTS],
    "conv3x3": [{"batch": 3, "inputs": 12, "outputs": 10, "side": 7}],
    "conv4x4_stride2": [{"batch": 3, "inputs": 12, "outputs": 10, "side": 10}],
    "upsample_conv3x3": [{"batch": 3, "channels": 12, "side": 5, "layout": layout} for layout in LAYOUTS],
    "words_similarity": [{"batch": 5, "words": 7, "channels": 40}],
}


def birds(batch: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each op at the widths of the birds' model."""
    for side in (64, 128):
        yield "memory_path", {"batch": batch, "side": side}
    yield "attention_read", {"batch": batch}
    for layout in LAYOUTS:
        yield "batch_norm_glu", {"batch": batch, "layout": layout}
        yield "batch_norm_skip", {"batch": batch, "layout": layout}
        yield "conv3x3", {"batch": batch, "layout": layout}
        yield "conv4x4_stride2", {"batch": batch, "side": 128, "layout": layout}
        yield "upsample_conv3x3", {"batch": batch, "layout": layout}
    yield "words_similarity", {"batch": batch}


def odd() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each op at small sizes that fill no tile."""
    yield from ((op, settings) for op, all_settings in ODD.items() for settings in all_settings)


def make(op: str, settings: dict[str, Any], precision: str, device: str, seed: int = 0) -> Case:
    """A case without the compiled implementations, whose compilation would take all the time."""
    torch.manual_seed(seed)
    with torch.device(device):
        case = OPS[op](Target(device, precision), **settings)
    case.implementations = {k: f for k, f in case.implementations.items() if "compile" not in k}
    return case


def told(error: RuntimeError) -> dict[str, Any]:
    """What a row says of an implementation that raised."""
    if isinstance(error, BackendError):
        return {"unavailable": str(error)}
    if is_out_of_memory(error):
        return {"out_of_memory": True}
    return {"correct": False, "failed": f"{type(error).__name__}: {error}"[:300]}
