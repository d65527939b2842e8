"""Key addressing, value reading and response gate (paper, sections 3.1.2 and 3.1.3).

alpha_ij = softmax_i(h_j^T k_i) over the words that are not padding,  o_j = sum_i alpha_ij v_i,
g_r = sigmoid(w [h_j, o_j] + b),  h'_j = g_r o_j + (1 - g_r) h_j
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def memory_read(
    h: Tensor,
    key: Tensor,
    value: Tensor,
    gate_weight: Tensor | None,
    gate_bias: Tensor | None,
    padding_mask: Tensor | None = None,
    mask_mode: str = "paper",
) -> tuple[Tensor, Tensor, Tensor | None]:
    """``h [B, C, H, W]``, key and value ``[B, C, T]`` → ``h' [B, C, H, W]``, the attention ``[B, T, H, W]`` and the
    response gate ``[B, 1, H, W]``, None without ``gate_weight``.

    A pixel whose words are all masked reads zero. ``mask_mode="official"`` masks row ``r = b * N + n`` with the
    padding of sample ``r mod B``, as the authors' ``mask.repeat(N, 1)`` does.
    """
    batch, _, height, width = h.shape
    if padding_mask is not None and mask_mode == "paper":  # nobody reads these words: 0 times NaN would be NaN
        key, value = (x.masked_fill(padding_mask[:, None], 0) for x in (key, value))
    pixels = h.flatten(2)  # [B, C, N]
    logits = key.transpose(1, 2) @ pixels  # [B, T, N]
    if padding_mask is None:
        attention = torch.softmax(logits, 1)
    else:
        if mask_mode == "paper":
            masked = padding_mask[:, :, None]
        else:
            rows = torch.arange(batch * height * width, device=h.device).view(batch, -1) % batch
            masked = padding_mask[rows].transpose(1, 2)  # [B, T, N]
        unreadable = masked.all(1, keepdim=True)  # softmax over no words: read nothing instead of NaN
        logits = logits.masked_fill(masked, -torch.inf).masked_fill(unreadable, 0)
        attention = torch.softmax(logits, 1).masked_fill(masked, 0)
    read = value @ attention  # [B, C, N]
    gate = None
    if gate_weight is not None and gate_bias is not None:
        # as 1x1 convolutions: one product over B and N at once sums the weight's gradient in float32 far less exactly
        weight_h, weight_read = gate_weight[None, :, None].chunk(2, 1)
        gate = torch.sigmoid(F.conv1d(pixels, weight_h) + F.conv1d(read, weight_read) + gate_bias)  # [B, 1, N]
        read = gate * read + (1 - gate) * pixels
        gate = gate.view(batch, 1, height, width)
    return read.reshape(h.shape), attention.reshape(batch, -1, height, width), gate
