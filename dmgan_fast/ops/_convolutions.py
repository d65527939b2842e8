"""What the custom ops of the 3×3 convolutions share: fake tensors and autograd, saving the input and the weight."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dmgan_fast import layouts
from dmgan_fast.ops import _backends, _custom_op


def define(op: str, scale: int) -> tuple[_custom_op.CustomOp, _custom_op.CustomOp]:
    """``dmgan_fast::<op>``, whose result has ``scale`` times the input's sides, and ``dmgan_fast::<op>_backward``."""

    @_custom_op.define(op)
    def forward(x: Tensor, weight: Tensor, backend: str) -> Tensor:
        return _backends.function(backend, op, f"{op}_forward")(layouts.dense(x), weight.contiguous())

    @forward.register_fake
    def _(x: Tensor, weight: Tensor, backend: str) -> Tensor:
        return layouts.empty_picture(x, weight.shape[0], scale * x.shape[2], scale * x.shape[3])

    @_custom_op.define(f"{op}_backward")
    def backward(
        grad: Tensor, x: Tensor, weight: Tensor, want_x: bool, want_weight: bool, backend: str
    ) -> tuple[Tensor, Tensor]:
        """Gradients of x and weight (size 0 if not wanted)."""
        x = layouts.dense(x)
        return _backends.function(backend, op, f"{op}_backward")(
            layouts.dense_like(grad, x), x, weight.contiguous(), want_x, want_weight
        )

    @backward.register_fake
    def _(
        grad: Tensor, x: Tensor, weight: Tensor, want_x: bool, want_weight: bool, backend: str
    ) -> tuple[Tensor, Tensor]:
        return (
            layouts.empty_picture(x, *x.shape[1:]) if want_x else x.new_empty(0),
            weight.new_empty(weight.shape) if want_weight else weight.new_empty(0),
        )

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, ctx.backend = inputs
        ctx.save_for_backward(x, weight)

    def differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        want_x, want_weight = ctx.needs_input_grad[:2]
        grad_x, grad_weight = backward(grad, *ctx.saved_tensors, want_x, want_weight, ctx.backend)
        return grad_x if want_x else None, grad_weight if want_weight else None, None

    forward.register_autograd(differentiate, setup_context)
    backward.refuse_derivatives(op)
    return forward, backward
