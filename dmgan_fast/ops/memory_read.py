"""Memory reading: checks, autocast, and the choice of a backend.

Saved for backward: h, key, value, and one log-sum-exp per pixel.
"""

from __future__ import annotations

from torch import Tensor

from dmgan_fast import reference
from dmgan_fast.contract import MEMORY_READ
from dmgan_fast.errors import require, require_flags
from dmgan_fast.ops import _backends, _custom_op

MASK_MODES = ("paper", "official")


def check_mask_mode(where: str, mask_mode: str) -> None:
    """Raise ``InputError``, which begins with ``where``, for an unknown mode."""
    require(
        mask_mode in MASK_MODES,
        lambda: f"{where}: mask_mode must be one of {', '.join(MASK_MODES)}, got {mask_mode!r}",
    )


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
    """Address the memory with every pixel, read it, and blend by the response gate (paper, sections 3.1.2, 3.1.3).

    ``alpha = softmax_i(h_j^T k_i)``, ``o_j = sum_i alpha_ij v_i``, ``g_r = sigmoid(w [h_j, o_j] + b)``,
    ``h'_j = g_r o_j + (1 - g_r) h_j``.

    Args:
        h: ``[B, C, H, W]``.
        key, value: ``[B, C, T]``.
        gate_weight: ``[2C]`` on ``[h, read]``; None: a plain attention read, as in AttnGAN.
        gate_bias: ``[1]``, or None with ``gate_weight=None``.
        padding_mask: ``[B, T]`` bool, True where a word is padding. A caption of padding only reads zero.
        mask_mode: ``"paper"`` masks sample b by its own row; ``"official"`` masks attention row ``b * N + n`` by row
            ``(b * N + n) mod B``, as the authors' code does.
        return_attention: also return the weights ``[B, T, H, W]``.
        return_gate: also return the response gate ``[B, 1, H, W]``.
        backend: see ``dmgan_fast.functional``.

    Returns:
        ``h' [B, C, H, W]``, or a tuple with the maps asked for after it.

    Raises:
        InputError: for shapes, dtypes or devices that do not fit.
        BackendError: if the backend asked for can't run.
    """
    sizes = MEMORY_READ.check(h, key, value, gate_weight, gate_bias, padding_mask)
    require(
        (gate_weight is None) == (gate_bias is None),
        "memory_read: give gate_weight and gate_bias together, or neither for a plain attention read",
    )
    require(gate_weight is not None or not return_gate, "memory_read: return_gate needs a gate_weight")
    check_mask_mode("memory_read", mask_mode)
    require_flags("memory_read", return_attention=return_attention, return_gate=return_gate)
    chosen = _backends.choose(MEMORY_READ, backend, h, sizes)
    if chosen == "reference":
        result, attention, gate = reference.memory_read(h, key, value, gate_weight, gate_bias, padding_mask, mask_mode)
    else:
        dtype = _backends.autocast_dtype(h)
        memory, gates = (key.to(dtype), value.to(dtype)), (gate_weight, gate_bias)
        wanted = (mask_mode == "official", return_attention, return_gate)
        result, _, attention, gate = _forward(h.to(dtype), *memory, *gates, padding_mask, *wanted, chosen)
    if not (return_attention or return_gate):
        return result
    maps = ((attention, return_attention), (gate, return_gate))
    return (result, *(each for each, wanted in maps if wanted and each is not None))


_forward = _custom_op.define(MEMORY_READ)
