"""Dynamic memory of a refinement stage (paper, section 3.1): write words into memory, then read it for each pixel.

Writing    g_w = sigmoid(A w_i + B mean(h)),  m_i = g_w relu(M_w w_i) + (1 - g_w) relu(M_r mean(h))
Addressing alpha_ij = softmax_i(h_j^T relu(K m_i)),   reading o_j = sum_i alpha_ij relu(V m_i)
Response   g_r = sigmoid(w [h_j, o_j] + b),   h'_j = g_r o_j + (1 - g_r) h_j

Ablated (paper, section 4.3): without the writing gate m_i = relu(M_w w_i), without the response gate [h_j, o_j] goes
to the next block in place of h'_j; and AttnGAN's attention, whose key and value are both U w_i.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmgan_fast import functional
from dmgan_fast.ops.memory_read import check_mask_mode
from dmgan_fast.reference import MemoryWeights


class MemoryOutput(NamedTuple):
    """``h [B, C, H, W]``, or ``[h, o] [B, 2C, H, W]`` where no gate blends them; on request ``attention [B, T, H, W]``
    and ``response_gate [B, 1, H, W]``, else None."""

    h: Tensor
    attention: Tensor | None
    response_gate: Tensor | None


class DynamicMemory(nn.Module):
    """Memory of ``T`` words for features of ``C`` channels; parameters are named as in ``functional.memory_write``.

    ``writing_gate``, ``response_gate``: without one, its parameters do not exist. ``backend``: as in ``functional``;
    None: the default.
    """

    backend: str | None = None

    def __init__(
        self,
        channels: int,
        word_channels: int,
        *,
        mask_mode: str = "paper",
        detach_image_mean: bool = True,
        writing_gate: bool = True,
        response_gate: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_mask_mode("DynamicMemory", mask_mode)
        self.channels, self.word_channels = channels, word_channels
        self.mask_mode = mask_mode
        self.detach_image_mean = detach_image_mean
        self.writing_gate, self.response_gate = writing_gate, response_gate
        memory_channels = 2 * channels

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

        if writing_gate:
            self.gate_word, self.gate_image = parameter(word_channels), parameter(channels)
        self.word_weight, self.word_bias = parameter(memory_channels, word_channels), parameter(memory_channels)
        if writing_gate:
            self.image_weight, self.image_bias = parameter(memory_channels, channels), parameter(memory_channels)
        self.key_weight, self.key_bias = parameter(channels, memory_channels), parameter(channels)
        self.value_weight, self.value_bias = parameter(channels, memory_channels), parameter(channels)
        if response_gate:
            self.response_weight, self.response_bias = parameter(memory_channels), parameter(1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Orthogonal weights; biases uniform within 1/sqrt(inputs), as PyTorch's convolutions start."""
        own = dict(self.named_parameters())
        for name in ("word", "image", "key", "value", "response"):
            if f"{name}_weight" in own:
                weight = torch.atleast_2d(own[f"{name}_weight"])
                nn.init.orthogonal_(weight)
                bound = 1 / math.sqrt(weight.shape[1])
                nn.init.uniform_(own[f"{name}_bias"], -bound, bound)
        if self.writing_gate:
            nn.init.orthogonal_(self.gate_word[None])
            nn.init.orthogonal_(self.gate_image[None])

    def extra_repr(self) -> str:
        shown = {"channels": self.channels, "word_channels": self.word_channels, "mask_mode": self.mask_mode}
        off = [
            f"{name}=False" for name in ("detach_image_mean", "writing_gate", "response_gate") if not vars(self)[name]
        ]
        return ", ".join([*(f"{name}={value!r}" for name, value in shown.items()), *off])

    def forward(
        self,
        h: Tensor,
        words: Tensor,
        padding_mask: Tensor | None = None,
        *,
        image_mean: Tensor | None = None,
        return_attention: bool = False,
    ) -> MemoryOutput:
        """``h [B, C, H, W]``, ``words [B, D, T]``, ``padding_mask [B, T]`` (True: padding).

        ``image_mean [B, C]``: the mean of h over pixels, if it is known already.
        """
        if self.writing_gate:
            key, value = self._write(words, h.mean((2, 3)) if image_mean is None else image_mean)
        else:
            memory = torch.relu(_project(words, self.word_weight, self.word_bias))
            key = torch.relu(_project(memory, self.key_weight, self.key_bias))
            value = torch.relu(_project(memory, self.value_weight, self.value_bias))
        gate = (self.response_weight, self.response_bias) if self.response_gate else (None, None)
        return _read(self, h, key, value, gate, padding_mask, return_attention)

    def writing_gates(self, words: Tensor, image_mean: Tensor) -> Tensor:
        """``g_w [B, T]`` for ``words [B, D, T]`` and ``image_mean [B, C]``: how much of a word is written."""
        return torch.sigmoid(self.gate_word @ words + (image_mean @ self.gate_image)[:, None])

    def _write(self, words: Tensor, image_mean: Tensor) -> tuple[Tensor, Tensor]:
        weights = {name: getattr(self, name) for name in MemoryWeights._fields}
        image_mean = image_mean.detach() if self.detach_image_mean else image_mean
        return functional.memory_write(words, image_mean, **weights, backend=self.backend)


class WordAttention(nn.Module):
    """AttnGAN's attention (section 3.1): pixels address the projected words ``U w_i`` and read them.

    Called as ``DynamicMemory``; ``context_weight [C, D]`` is U.
    """

    backend: str | None = None

    def __init__(
        self,
        channels: int,
        word_channels: int,
        *,
        mask_mode: str = "paper",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_mask_mode("WordAttention", mask_mode)
        self.mask_mode = mask_mode
        self.context_weight = nn.Parameter(torch.empty(channels, word_channels, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """An orthogonal projection."""
        nn.init.orthogonal_(self.context_weight)

    def extra_repr(self) -> str:
        channels, word_channels = self.context_weight.shape
        return f"channels={channels}, word_channels={word_channels}, mask_mode={self.mask_mode!r}"

    def forward(
        self,
        h: Tensor,
        words: Tensor,
        padding_mask: Tensor | None = None,
        *,
        image_mean: Tensor | None = None,
        return_attention: bool = False,
    ) -> MemoryOutput:
        """``[h, o] [B, 2C, H, W]``; ``image_mean`` is not looked at."""
        context = _project(words, self.context_weight)
        return _read(self, h, context, context, (None, None), padding_mask, return_attention)


def _project(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``[B, I, T]`` → ``[B, O, T]``."""
    return F.conv1d(x, weight[:, :, None], bias)


def _read(
    memory: DynamicMemory | WordAttention,
    h: Tensor,
    key: Tensor,
    value: Tensor,
    gate: tuple[Tensor | None, Tensor | None],
    padding_mask: Tensor | None,
    maps: bool,
) -> MemoryOutput:
    """``h'``, or ``[h, o]`` where no gate, a weight and a bias, blends them."""
    gated = gate[0] is not None
    result = functional.memory_read(
        h,
        key,
        value,
        *gate,
        padding_mask,
        mask_mode=memory.mask_mode,
        return_attention=maps,
        return_gate=maps and gated,
        backend=memory.backend,
    )
    read, *found = (result,) if isinstance(result, Tensor) else result
    attention, response_gate = (*found, None, None)[:2]
    return MemoryOutput(read if gated else torch.cat((h, read), 1), attention, response_gate)
