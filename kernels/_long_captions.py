"""Memory reading of captions with more words than a kernel keeps in registers: the reference's products in float32, and
their gradients by autograd. All weights ``[B, T, N]`` exist at once.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from dmgan_fast import reference
from dmgan_fast.layouts import empty_map

CUDA_WORDS = 32  # kLongestRow of csrc/cuda/memory_read.cuh


def _read(
    padding_mask: Tensor | None, official: bool, h: Tensor, key: Tensor, value: Tensor, *gate: Tensor
) -> tuple[Tensor, ...]:
    """h', the attention map and, with a gate's weight and bias, the gate."""
    mode = "official" if official else "paper"
    read, attention, _ = reference.memory_read(h, key, value, None, None, padding_mask, mode)
    if not gate:
        return read, attention
    weight_h, weight_read = gate[0].chunk(2)
    logit = weight_h @ h.flatten(2) + weight_read @ read.flatten(2) + gate[1]  # [B, N]
    g = torch.sigmoid(logit).view(len(h), 1, *h.shape[2:])
    return torch.lerp(h, read, g), attention, g


def _like(x: Tensor, result: Tensor) -> Tensor:
    """``result`` in the dtype and layout of x, which has its shape."""
    return empty_map(x, *x.shape[1:]).copy_(result)


def _wide(*tensors: Tensor | None) -> list[Tensor]:
    return [x.float() for x in tensors if x is not None]


def forward(
    h: Tensor,
    key: Tensor,
    value: Tensor,
    gate_weight: Tensor | None,
    gate_bias: Tensor | None,
    padding_mask: Tensor | None,
    official: bool,
    want_attention: bool,
    want_gate: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As ``memory_read_forward``."""
    inputs = _wide(h, key, value, gate_weight, gate_bias)
    out, attention, *gate = _read(padding_mask, official, *inputs)
    top, at = attention.flatten(2).max(1, keepdim=True)  # [B, 1, N], zero where no word is read
    logit = (inputs[1].transpose(1, 2) @ inputs[0].flatten(2)).gather(1, at)
    lse = torch.where(top > 0, logit - top.log(), -torch.inf)[:, 0]
    empty = h.new_empty(0)
    maps = attention.to(h.dtype) if want_attention else empty, gate[0].to(h.dtype) if want_gate else empty.clone()
    return _like(h, out), lse, *maps


def backward(
    grad_out: Tensor,
    grad_attention: Tensor | None,
    grad_gate: Tensor | None,
    h: Tensor,
    key: Tensor,
    value: Tensor,
    gate_weight: Tensor | None,
    gate_bias: Tensor | None,
    padding_mask: Tensor | None,
    lse: Tensor,
    official: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As ``memory_read_backward``."""
    outputs, pull = torch.func.vjp(
        lambda *inputs: _read(padding_mask, official, *inputs), *_wide(h, key, value, gate_weight, gate_bias)
    )
    given = zip(outputs, (grad_out, grad_attention, grad_gate), strict=False)
    grads = pull(tuple(torch.zeros_like(y) if grad is None else grad.float() for y, grad in given))
    of_gate = grads[3:] or (lse.new_empty(0), lse.new_empty(0))
    return _like(h, grads[0]), grads[1].to(key.dtype), grads[2].to(value.dtype), *of_gate


def behind_cuda(library: Any) -> SimpleNamespace:
    """memory_read for captions of any length: short ones by the CUDA library's kernels."""

    def memory_read_forward(h: Tensor, key: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        run = library.memory_read_forward if key.shape[2] <= CUDA_WORDS else forward
        return run(h, key, *others)  # type: ignore[no-any-return]

    def memory_read_backward(
        grad_out: Tensor, grad_attention: Tensor | None, grad_gate: Tensor | None, h: Tensor, key: Tensor, *others: Any
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        run = library.memory_read_backward if key.shape[2] <= CUDA_WORDS else backward
        return run(grad_out, grad_attention, grad_gate, h, key, *others)  # type: ignore[no-any-return]

    return SimpleNamespace(memory_read_forward=memory_read_forward, memory_read_backward=memory_read_backward)
