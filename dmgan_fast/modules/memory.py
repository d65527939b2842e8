"""Dynamic memory of a refinement stage (paper, section 3.1): write words into memory, then read it for each pixel.

Writing    g_w = sigmoid(A w_i + B mean(h)),  m_i = g_w relu(M_w w_i) + (1 - g_w) relu(M_r mean(h))
Addressing alpha_ij = softmax_i(h_j^T relu(K m_i)),   reading o_j = sum_i alpha_ij relu(V m_i)
Response   g_r = sigmoid(w [h_j, o_j] + b),   h'_j = g_r o_j + (1 - g_r) h_j
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dmgan_fast import functional


class MemoryOutput(NamedTuple):
    """``h [B, C, H, W]``; on request ``attention [B, T, H, W]`` and ``response_gate [B, 1, H, W]``, else None."""

    h: Tensor
    attention: Tensor | None
    response_gate: Tensor | None


class DynamicMemory(nn.Module):
    """Memory of ``T`` words for features of ``C`` channels; parameters are named as in ``functional.memory_write``.

    ``backend``: as in ``functional``; None: the default.
    """

    backend: str | None = None

    def __init__(self, channels: int, word_channels: int, *, mask_mode: str = "paper", detach_image_mean: bool = True):
        super().__init__()
        self.mask_mode = mask_mode
        self.detach_image_mean = detach_image_mean
        memory_channels = 2 * channels
        self.gate_word = nn.Parameter(torch.empty(word_channels))
        self.gate_image = nn.Parameter(torch.empty(channels))
        self.word_weight = nn.Parameter(torch.empty(memory_channels, word_channels))
        self.word_bias = nn.Parameter(torch.empty(memory_channels))
        self.image_weight = nn.Parameter(torch.empty(memory_channels, channels))
        self.image_bias = nn.Parameter(torch.empty(memory_channels))
        self.key_weight = nn.Parameter(torch.empty(channels, memory_channels))
        self.key_bias = nn.Parameter(torch.empty(channels))
        self.value_weight = nn.Parameter(torch.empty(channels, memory_channels))
        self.value_bias = nn.Parameter(torch.empty(channels))
        self.response_weight = nn.Parameter(torch.empty(memory_channels))
        self.response_bias = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Orthogonal weights; biases uniform within 1/sqrt(inputs), as PyTorch's convolutions start."""
        inputs: dict[str, Tensor] = {"word": self.word_weight, "image": self.image_weight, "key": self.key_weight}
        inputs |= {"value": self.value_weight, "response": self.response_weight[None]}
        for name, weight in inputs.items():
            nn.init.orthogonal_(weight)
            bound = 1 / math.sqrt(weight.shape[1])
            nn.init.uniform_(getattr(self, f"{name}_bias"), -bound, bound)
        nn.init.orthogonal_(self.gate_word[None])
        nn.init.orthogonal_(self.gate_image[None])

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
        if image_mean is None:
            image_mean = h.mean((2, 3))
        if self.detach_image_mean:
            image_mean = image_mean.detach()
        key, value = functional.memory_write(
            words,
            image_mean,
            gate_word=self.gate_word,
            gate_image=self.gate_image,
            word_weight=self.word_weight,
            word_bias=self.word_bias,
            image_weight=self.image_weight,
            image_bias=self.image_bias,
            key_weight=self.key_weight,
            key_bias=self.key_bias,
            value_weight=self.value_weight,
            value_bias=self.value_bias,
            backend=self.backend,
        )
        result = functional.memory_read(
            h,
            key,
            value,
            self.response_weight,
            self.response_bias,
            padding_mask,
            mask_mode=self.mask_mode,
            return_attention=return_attention,
            return_gate=return_attention,
            backend=self.backend,
        )
        return MemoryOutput(result, None, None) if isinstance(result, Tensor) else MemoryOutput(*result)
