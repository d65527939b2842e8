"""What ``auto`` takes on a GPU, per op, dtype, architecture and size, and what each choice rests on: the table in
docs/gpu.md, which ``python -m tools.gpu_page`` writes.

Where a backend can't run, the next does; the reference stands behind them all.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from dmgan_fast.contract import FLOATS, OPS

Capability = tuple[int, int]
HALVES = FLOATS[1:]


class Rule(NamedTuple):
    """``order``: the backends, best first. ``rests_on``: a file of results, or "estimate" and its reason; estimates are
    computed from bytes, operations and compiled kernels, not measured. ``least``: elements of the op's first tensor.
    """

    op: str
    order: tuple[str, ...]
    rests_on: str
    dtypes: tuple[torch.dtype, ...] = FLOATS
    oldest: Capability = (8, 0)  # of the compute capabilities that the rule is for
    least: int = 0


# The first that fits counts.
RULES = (
    Rule(
        "upsample_conv3x3",
        ("aten",),
        "estimate: 16 products on cuDNN's tensor cores beat 9 by FMA in float32, where PyTorch's convolutions are in "
        "TF32, and mma.sync at half of their rate in sixteen bits (by 2 to 4 on sm_90)",
        oldest=(0, 0),
    ),
    Rule(
        "memory_read",
        ("triton", "cuda"),
        "estimate: Triton's kernel is on tensor cores, the CUDA kernel is bound by FMA in sixteen bits (by 1.2)",
        dtypes=HALVES,
        least=1 << 22,
    ),
    Rule(
        "memory_read",
        ("cuda", "triton"),
        "estimate: both read and write what must be read and written, in a few microseconds; the CUDA kernel launches "
        "sooner",
    ),
    Rule(
        "memory_write",
        ("cuda", "triton"),
        "estimate: one launch forward; both backward passes are cuBLAS's products around one kernel or none",
    ),
    Rule(
        "batch_norm_glu",
        ("cuda", "triton"),
        "estimate: both are bound by bandwidth; the CUDA kernels launch sooner",
    ),
    Rule(
        "words_similarity",
        ("cuda", "triton"),
        "estimate: 1.3 times as fast as cuBLAS's products at 10 captions, about as fast at 64",
    ),
    Rule("conv3x3", (), "PyTorch's own convolution is the reference"),
    Rule("conv4x4_stride2", (), "PyTorch's own convolution is the reference"),
    Rule("folded_conv3x3", (), "its kernel is for CPUs; the reference is PyTorch's own convolution and GLU"),
)


def order_on_gpu(op: str, dtype: torch.dtype, capability: Capability, elements: int) -> tuple[str, ...]:
    """The backends for ``auto`` to try on such a GPU, best first; the reference is the last.

    An op without a rule: its GPU kernels as the contract names them.
    """
    fitting = (
        rule.order
        for rule in RULES
        if rule.op == op and dtype in rule.dtypes and capability >= rule.oldest and elements >= rule.least
    )
    kernels = tuple(name for name in OPS[op].kernels if name != "cpu")
    return (*next(fitting, kernels), "reference")


def size_class(op: str, elements: int) -> int:
    """The largest ``least`` of the op's rules that such a tensor reaches: choices depend on no more of its size."""
    reached = 0
    for rule in RULES:
        if rule.op == op and reached < rule.least <= elements:
            reached = rule.least
    return reached
