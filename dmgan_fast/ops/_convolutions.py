"""What the custom ops of the convolutions share: fake tensors, and autograd, saving the input and the weight.

A convolution is linear in its input and in its weight, so second derivatives are convolutions of the same kinds.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dmgan_fast import layouts
from dmgan_fast.ops import _backends, _custom_op


def define(op: str, up: int = 1, down: int = 1) -> tuple[_custom_op.CustomOp, _custom_op.CustomOp]:
    """``dmgan_fast::<op>``, results ``up / down`` times as wide as the input, and ``dmgan_fast::<op>_backward``."""

    @_custom_op.define(op)
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, backend: str) -> Tensor:
        added = () if bias is None else (bias,)
        return _backends.function(backend, op, f"{op}_forward")(layouts.dense(x), weight.contiguous(), *added)

    @forward.register_fake
    def _(x: Tensor, weight: Tensor, bias: Tensor | None, backend: str) -> Tensor:
        height, width = (side * up // down for side in x.shape[2:])
        return layouts.empty_picture(x, weight.shape[0], height, width)

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
        x, weight, _, ctx.backend = inputs
        ctx.save_for_backward(x, weight)

    def differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        want_x, want_weight, want_bias = ctx.needs_input_grad[:3]
        grad_bias = grad.sum((0, 2, 3)) if want_bias else None
        if not (want_x or want_weight):
            return None, None, grad_bias, None
        grad_x, grad_weight = backward(grad, *ctx.saved_tensors, want_x, want_weight, ctx.backend)
        return grad_x if want_x else None, grad_weight if want_weight else None, grad_bias, None

    def setup_twice(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *tensors, ctx.want_x, ctx.want_weight, ctx.backend = inputs
        ctx.save_for_backward(*tensors)

    def differentiate_twice(ctx: Any, of_grad_x: Tensor | None, of_grad_weight: Tensor | None) -> tuple[Any, ...]:
        grad, x, weight = ctx.saved_tensors
        of_grad, of_x, of_weight = None, None, None
        if ctx.want_x and of_grad_x is not None:
            of_grad = forward(of_grad_x, weight, None, ctx.backend)
            of_weight = backward(grad, of_grad_x, weight, False, True, ctx.backend)[1]
        if ctx.want_weight and of_grad_weight is not None:
            through_weight = forward(x, of_grad_weight, None, ctx.backend)
            of_grad = through_weight if of_grad is None else of_grad + through_weight
            of_x = backward(grad, x, of_grad_weight, True, False, ctx.backend)[0]
        return of_grad, of_x, of_weight, None, None, None

    forward.register_autograd(differentiate, setup_context)
    backward.register_autograd(differentiate_twice, setup_twice)
    return forward, backward
