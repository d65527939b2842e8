"""Memory reading: checks and dispatch."""

from __future__ import annotations

import torch
from torch import Tensor

from dmgan_fast.errors import InputError
from dmgan_fast.ops import _backends, _checks

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
    result: Tensor | tuple[Tensor, ...] = _backends.choose(OP, backend)(
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
    return result
