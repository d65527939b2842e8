"""conv4x4_stride2 by the faster of the native library and PyTorch's own kernel."""

from __future__ import annotations

from functools import partial

from dmgan_fast.aten.convolutions import backward, forward

conv4x4_stride2_forward = partial(forward, "conv4x4_stride2")
conv4x4_stride2_backward = partial(backward, "conv4x4_stride2")
