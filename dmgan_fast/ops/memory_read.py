"""Memory reading: checks, custom op with fake tensors and autograd, autocast.

Saved for backward: h, key, value, and one log-sum-exp per pixel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dmgan_fast import layouts, reference
from dmgan_fast.errors import InputError
from dmgan_fast.ops import _backends, _checks, _custom_op

OP = "memory_read"
MASK_MODES = ("paper", "official")


def memory_read(
    h: Tensor,
    key: Tensor,
    value: Tensor,
    gate_weight: Tensor | None,
    gate_bias: Tensor | None,
    padding_mask: Tensor | None = None,
    *,
    mask_mode: str = "paper",
    return_attention: bool = False,
    return_gate: bool = False,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, ...]:
    _check(h, key, value, gate_weight, gate_bias, padding_mask, mask_mode, return_gate)
    chosen = _backends.choose(OP, backend, h, channels=h.shape[1])
    if chosen == "reference":
        return reference.memory_read(
            h,
            key,
            value,
            gate_weight,
            gate_bias,
            padding_mask,
            mask_mode=mask_mode,
            return_attention=return_attention,
            return_gate=return_gate,
        )
    dtype = _backends.autocast_dtype(h)
    h, key, value = h.to(dtype), key.to(dtype), value.to(dtype)
    result, _, attention, gate = _forward(
        h,
        key,
        value,
        gate_weight,
        gate_bias,
        padding_mask,
        mask_mode == "official",
        return_attention,
        return_gate,
        chosen,
    )
    maps = ([attention] if return_attention else []) + ([gate] if return_gate else [])
    return (result, *maps) if maps else result


def _check(
    h: Tensor,
    key: Tensor,
    value: Tensor,
    gate_weight: Tensor | None,
    gate_bias: Tensor | None,
    padding_mask: Tensor | None,
    mask_mode: str,
    return_gate: bool,
) -> None:
    _checks.shape(OP, "h", h, ("B", "C", "H", "W"))
    batch, channels = h.shape[:2]
    _checks.shape(OP, "key", key, (batch, channels, "T"))
    words = key.shape[2]
    _checks.shape(OP, "value", value, (batch, channels, words), like="the shape of key ")
    if (gate_weight is None) != (gate_bias is None):
        raise InputError(f"{OP}: give gate_weight and gate_bias together, or neither for a plain attention read")
    if gate_weight is not None and gate_bias is not None:
        _checks.shape(OP, "gate_weight", gate_weight, (2 * channels,))
        _checks.shape(OP, "gate_bias", gate_bias, (1,))
    elif return_gate:
        raise InputError(f"{OP}: return_gate needs a gate_weight")
    if padding_mask is not None:
        _checks.shape(OP, "padding_mask", padding_mask, (batch, words))
        if padding_mask.dtype != torch.bool:
            raise InputError(f"{OP}: padding_mask must be bool (True: padding), got {padding_mask.dtype}")
        if padding_mask.device != h.device:
            raise InputError(f"{OP}: padding_mask is on {padding_mask.device}, h is on {h.device}")
    _checks.one_of(OP, "mask_mode", mask_mode, MASK_MODES)
    tensors = {"h": h, "key": key, "value": value, "gate_weight": gate_weight, "gate_bias": gate_bias}
    _checks.same_kind(OP, "h", tensors)


@_custom_op.define("memory_read")
def _forward(
    h: Tensor,
    key: Tensor,
    value: Tensor,
    gate_weight: Tensor | None,
    gate_bias: Tensor | None,
    padding_mask: Tensor | None,
    official: bool,
    want_attention: bool,
    want_gate: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Result, log-sum-exp ``[B, N]``, attention and gate (size 0 if not wanted)."""
    return _backends.function(backend, OP, "memory_read_forward")(
        layouts.pixel_linear(h),
        key.contiguous(),
        value.contiguous(),
        layouts.wide(gate_weight),
        layouts.wide(gate_bias),
        None if padding_mask is None else padding_mask.contiguous(),
        official,
        want_attention,
        want_gate,
    )


@_forward.register_fake
def _(
    h: Tensor,
    key: Tensor,
    value: Tensor,
    gate_weight: Tensor | None,
    gate_bias: Tensor | None,
    padding_mask: Tensor | None,
    official: bool,
    want_attention: bool,
    want_gate: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, channels, height, width = h.shape
    return (
        layouts.empty_picture(h, channels, height, width),
        h.new_empty((batch, height * width), dtype=torch.float32),
        h.new_empty((batch, key.shape[2], height, width) if want_attention else (0,)),
        h.new_empty((batch, 1, height, width) if want_gate else (0,)),
    )


@_custom_op.define("memory_read_backward")
def _backward(
    grad: Tensor,
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
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return _backends.function(backend, OP, "memory_read_backward")(
        layouts.pixel_linear(grad),
        None if grad_attention is None else grad_attention.contiguous(),
        None if grad_gate is None else grad_gate.contiguous(),
        layouts.pixel_linear(h),
        key.contiguous(),
        value.contiguous(),
        layouts.wide(gate_weight),
        layouts.wide(gate_bias),
        None if padding_mask is None else padding_mask.contiguous(),
        lse,
        official,
    )


@_backward.register_fake
def _(
    grad: Tensor,
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
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    channels, gated = h.shape[1], gate_weight is not None
    return (
        layouts.empty_picture(h, *h.shape[1:]),
        torch.empty(key.shape, dtype=key.dtype, device=key.device),
        torch.empty(value.shape, dtype=value.dtype, device=value.device),
        h.new_empty(2 * channels if gated else 0, dtype=torch.float32),
        h.new_empty(1 if gated else 0, dtype=torch.float32),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    h, key, value, gate_weight, gate_bias, padding_mask, ctx.official, _, _, ctx.backend = inputs
    ctx.save_for_backward(h, key, value, gate_weight, gate_bias, padding_mask, output[1])
    ctx.set_materialize_grads(False)


def _differentiate(
    ctx: Any, grad: Tensor | None, _lse: None, grad_attention: Tensor | None, grad_gate: Tensor | None
) -> tuple[Tensor | None, ...]:
    h, key, value, gate_weight, gate_bias, padding_mask, lse = ctx.saved_tensors
    if grad is None:
        grad = torch.zeros_like(h)
    grads = _backward(
        grad,
        grad_attention,
        grad_gate,
        h,
        key,
        value,
        gate_weight,
        gate_bias,
        padding_mask,
        lse,
        ctx.official,
        ctx.backend,
    )
    of_gate = (None, None) if gate_weight is None else (grads[3].to(gate_weight.dtype), grads[4].to(gate_bias.dtype))
    return (*grads[:3], *of_gate, None, None, None, None, None)


_forward.register_autograd(_differentiate, _setup_context)
_backward.refuse_derivatives(OP)
