"""Custom ops, and a short way to them for plain eager calls.

PyTorch's Python layers around a differentiable custom op cost more than the kernels of the memory ops on small maps
(benchmarks: ``memory_path`` at 64 × 64). They are needed where something watches or transforms operators (compilation,
export, fake tensors, dispatch modes, functorch); plain calls go from autograd straight to the kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dmgan_fast.errors import BackendError
from dmgan_fast.ops import _backends

_PLAIN_TYPES = (Tensor, torch.nn.Parameter)


def _is_plain(arguments: tuple[Any, ...]) -> bool:
    """True if nobody but autograd wants to see this call."""
    if (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._are_functorch_transforms_active()
        or torch._C._get_tracing_state()
    ):
        return False
    return all(type(x) in _PLAIN_TYPES and not x.is_meta for x in arguments if isinstance(x, Tensor))


class CustomOp:
    """``dmgan_fast::<name>``, and ``kernel``, the function it runs.

    Args:
        name: of the operator.
        kernel: takes and returns tensors, all results new; its annotations give the schema.
    """

    def __init__(self, name: str, kernel: Callable[..., Any]) -> None:
        self.name, self.kernel = name, kernel
        self.registered = torch.library.custom_op(f"dmgan_fast::{name}", kernel, mutates_args=())
        self.register_fake = self.registered.register_fake
        self.setup_context: Callable[..., None] | None = None
        self.differentiate: Callable[..., Any] | None = None

    def register_autograd(self, differentiate: Callable[..., Any], setup_context: Callable[..., None]) -> None:
        """As ``torch.library.register_autograd``; ``ctx.needs_input_grad`` may have further entries at its end."""
        self.setup_context, self.differentiate = setup_context, differentiate
        self.registered.register_autograd(differentiate, setup_context=setup_context)

    def refuse_derivatives(self, op: str) -> None:
        """Differentiating this op, the backward of ``op``, is an error that says what to do."""

        def refuse(ctx: Any, *grads: Tensor) -> None:
            raise BackendError(
                f"{op}: the fused kernels have no second derivatives; use backend='reference' "
                f"(or {_backends.VARIABLE}=reference)"
            )

        self.registered.register_autograd(refuse)

    def __call__(self, *arguments: Any) -> Any:
        if _is_plain(arguments):
            if not torch.is_grad_enabled():
                return self.kernel(*arguments)
            if self.differentiate:
                return _Plain.apply(*arguments, self)
        return self.registered(*arguments)


class _Plain(torch.autograd.Function):
    """A plain call of the op, which is the last argument: so the gradients' places are those of its arguments."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Any:
        *inputs, ctx.op = arguments
        output = ctx.op.kernel(*inputs)
        ctx.op.setup_context(ctx, tuple(inputs), output)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return *ctx.op.differentiate(ctx, *grads), None


def define(name: str) -> Callable[[Callable[..., Any]], CustomOp]:
    """A decorator that makes a function the kernel of ``dmgan_fast::<name>``."""
    return lambda kernel: CustomOp(name, kernel)
