"""conv3x3 by the native library; channels-last pictures are laid out for it, and its results back."""

from __future__ import annotations

from functools import partial

from dmgan_fast.aten.layout import native_backward, native_forward

conv3x3_forward = partial(native_forward, "conv3x3")
conv3x3_backward = partial(native_backward, "conv3x3")
