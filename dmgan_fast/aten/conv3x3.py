"""conv3x3 by the faster of the native library and PyTorch's own kernel."""

from __future__ import annotations

from functools import partial

from dmgan_fast.aten.convolutions import backward, forward

conv3x3_forward = partial(forward, "conv3x3")
conv3x3_backward = partial(backward, "conv3x3")
