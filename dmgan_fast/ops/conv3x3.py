"""conv3x3: checks, custom op with fake tensors and autograd.

Float32 on a CPU runs Winograd's form (``csrc/cpu/conv3x3.cpp``) with 4/9 of the multiplications; anything else is
PyTorch's own convolution, whatever the backend: cuDNN's on a GPU. Saved for backward: the input and the weight.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dmgan_fast import layouts, reference
from dmgan_fast.ops import _backends, _checks

OP = "conv3x3"


def conv3x3(x: Tensor, weight: Tensor, *, backend: str | None = None) -> Tensor:
    _checks.shape(OP, "x", x, ("B", "I", "H", "W"))
    _checks.shape(OP, "weight", weight, ("O", x.shape[1], 3, 3))
    _checks.same_kind(OP, "x", {"x": x, "weight": weight})
    chosen = _backends.choose(OP, backend, x)
    if chosen != "cpu" or _backends.autocast_dtype(x) != torch.float32:
        return reference.conv3x3(x, weight)
    return _forward(x, weight, chosen)


@torch.library.custom_op("dmgan_fast::conv3x3", mutates_args=())
def _forward(x: Tensor, weight: Tensor, backend: str) -> Tensor:
    return _backends.function(backend, OP, "conv3x3_forward")(layouts.dense(x), weight.contiguous())


@_forward.register_fake
def _(x: Tensor, weight: Tensor, backend: str) -> Tensor:
    return layouts.empty_picture(x, weight.shape[0], *x.shape[2:])


@torch.library.custom_op("dmgan_fast::conv3x3_backward", mutates_args=())
def _backward(
    grad: Tensor, x: Tensor, weight: Tensor, want_x: bool, want_weight: bool, backend: str
) -> tuple[Tensor, Tensor]:
    """Gradients of x and weight (size 0 if not wanted)."""
    x = layouts.dense(x)
    return _backends.function(backend, OP, "conv3x3_backward")(
        layouts.dense_like(grad, x), x, weight.contiguous(), want_x, want_weight
    )


@_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, want_x: bool, want_weight: bool, backend: str) -> tuple[Tensor, Tensor]:
    return (
        layouts.empty_picture(x, *x.shape[1:]) if want_x else x.new_empty(0),
        weight.new_empty(weight.shape) if want_weight else weight.new_empty(0),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, ctx.backend = inputs
    ctx.save_for_backward(x, weight)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    want_x, want_weight, _ = ctx.needs_input_grad
    grad_x, grad_weight = _backward(grad, *ctx.saved_tensors, want_x, want_weight, ctx.backend)
    return grad_x if want_x else None, grad_weight if want_weight else None, None


_forward.register_autograd(_differentiate, setup_context=_setup_context)
_backends.refuse_second_derivatives(_backward, OP)
