"""What the kernels share on the host: where Triton runs, how exact products are, the layouts of pictures."""

from __future__ import annotations

import os

import torch
from torch import Tensor


def why_not(tensor: Tensor) -> str | None:
    """None if Triton can run on the tensor's device, else the reason."""
    try:
        import triton  # noqa: F401
    except ImportError as error:
        return f"importing triton fails: {error}"
    kind = tensor.device.type
    if kind == "cuda" or (kind == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"):
        return None
    return f"Triton runs on CUDA and ROCm devices (and, with TRITON_INTERPRET=1, on the CPU), the tensors are on {kind}"


def dot_precision() -> str:
    """``input_precision`` of products of float32: exact, unless PyTorch allows TF32 and the card has it."""
    return "tf32" if torch.backends.cuda.matmul.allow_tf32 and torch.version.hip is None else "ieee"


def is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def empty_picture(x: Tensor) -> Tensor:
    """A dense ``[B, C, H, W]`` like ``x``, channels-last if ``x`` is."""
    memory_format = torch.channels_last if is_channels_last(x) else torch.contiguous_format
    return torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=memory_format)


def pixel_strides(x: Tensor) -> tuple[int, int, int]:
    """Strides (sample, channel, pixel) of a pixel-linear ``[B, C, H, W]``."""
    # The stride of an axis of size 1 means nothing.
    return x.stride(0), x.stride(1), x.stride(3) if x.shape[3] > 1 else x.stride(2)
