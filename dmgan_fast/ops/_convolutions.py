"""The custom ops of a convolution, differentiable twice, saving the input and the weight.

A convolution is linear in its input and in its weight, so second derivatives are convolutions of the same kinds.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dmgan_fast.contract import Op
from dmgan_fast.ops import _custom_op


def define(op: Op) -> _custom_op.CustomOp:
    """``dmgan_fast::<op>``, and ``dmgan_fast::<op>_backward`` behind it."""
    forward, backward = _custom_op.CustomOp(op), _custom_op.CustomOp(op, "backward")
    no_bias = (None,) * ("bias" in forward.parameters)

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *tensors, ctx.want_x, ctx.want_weight, ctx.backend = inputs
        ctx.save_for_backward(*tensors)

    def differentiate(ctx: Any, of_grad_x: Tensor | None, of_grad_weight: Tensor | None) -> tuple[Any, ...]:
        grad, x, weight = ctx.saved_tensors
        of_grad, of_x, of_weight = None, None, None
        if ctx.want_x and of_grad_x is not None:
            of_grad = forward(of_grad_x, weight, *no_bias, ctx.backend)
            of_weight = backward(grad, of_grad_x, weight, False, True, ctx.backend)[1]
        if ctx.want_weight and of_grad_weight is not None:
            through_weight = forward(x, of_grad_weight, *no_bias, ctx.backend)
            of_grad = through_weight if of_grad is None else of_grad + through_weight
            of_x = backward(grad, x, of_grad_weight, True, False, ctx.backend)[0]
        return of_grad, of_x, of_weight, None, None, None

    _custom_op.derive(forward, backward, more={"bias": lambda grad_y: grad_y.sum((0, 2, 3))})
    backward.register_autograd(differentiate, setup)
    return forward
