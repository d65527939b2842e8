"""Custom ops by the contract, their derivatives, and a short way to them for plain eager calls.

PyTorch's Python layers around a differentiable custom op cost more than the kernels of the memory ops on small maps
(benchmarks: ``memory_path`` at 64 × 64). They are needed where something watches or transforms operators (compilation,
export, fake tensors, dispatch modes, functorch); plain calls go from autograd straight to the kernel.
"""

from __future__ import annotations

import inspect
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from dmgan_fast import contract, layouts
from dmgan_fast.errors import BackendError
from dmgan_fast.ops import _backends

_PLAIN_TYPES = (Tensor, torch.nn.Parameter)
Rules = Mapping[str, Callable[..., Any]]  # how a value is found from others, which the function's parameters name


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


def on_backend(op: contract.Op, name: str, given: Sequence[str] | None = None) -> Callable[..., Any]:
    """The kernels' ``NAME_<name>``, which brings tensors into their layouts.

    ``given``: the names of the arguments that it is called with, which may be more; by default its own, then backend.
    """
    function = op.function(name)
    given = given or (*function.parameters, "backend")
    pick = _picker([given.index(parameter) for parameter in function.parameters])
    backend_place = given.index("backend")
    hows = [op.bring.get(a.name, Tensor.contiguous) if a.is_tensor else None for a in function.arguments]
    own = [(place, how) for place, how in enumerate(hows) if callable(how)]
    alike = [(place, function.parameters.index(how)) for place, how in enumerate(hows) if isinstance(how, str)]
    op_name, function_name = op.name, function.name

    def run(*values: Any) -> Any:
        arguments = list(pick(values))
        for place, bring in own:
            if arguments[place] is not None:
                arguments[place] = bring(arguments[place])
        for place, pattern in alike:
            if arguments[place] is not None:
                arguments[place] = layouts.dense_like(arguments[place], arguments[pattern])
        return _backends.function(values[backend_place], op_name, function_name)(*arguments)

    return run


class CustomOp:
    """``dmgan_fast::<NAME>`` or ``dmgan_fast::<NAME>_<name>``, as the contract has it.

    Args:
        op: which.
        name: empty, or behind the op's own.
        kernel: what it runs: takes a record of the arguments by their names in the contract, gives its results, all of
            them new; by default the function of a backend that has the same name.
    """

    def __init__(self, op: contract.Op, name: str = "", kernel: Callable[..., Any] | None = None) -> None:
        self.op, self.function = op, op.custom_op(name)
        self.kernel = self._of_record(kernel) if kernel else on_backend(op, name or "forward", self.parameters)
        self.registered = torch.library.custom_op(
            f"dmgan_fast::{self.function.name}", self.kernel, mutates_args=(), schema=self.function.schema
        )
        self.registered.register_fake(lambda *arguments: self.function.fake(*arguments))  # found when first needed
        self.setup_context: Callable[..., None] | None = None
        self.differentiate: Callable[..., Any] | None = None
        CUSTOM_OPS[getattr(torch.ops.dmgan_fast, self.function.name).default] = self

    @property
    def parameters(self) -> tuple[str, ...]:
        return self.function.parameters

    def _of_record(self, kernel: Callable[..., Any]) -> Callable[..., Any]:
        record = namedtuple(self.function.name, self.parameters)  # type: ignore[misc]
        return lambda *arguments, **options: kernel(record(*arguments), **options)

    def argument(self, arguments: tuple[Any, ...], name: str) -> Any:
        """Which of the arguments of a call has that name."""
        return arguments[self.parameters.index(name)]

    def copied_bytes(self, arguments: tuple[Any, ...]) -> int:
        """Of the tensors that its kernels would take as copies in their own layout."""
        found = 0
        for argument, value in zip(self.function.arguments, arguments, strict=True):
            if isinstance(value, Tensor) and not value.is_contiguous():
                how = self.op.bring.get(argument.name, Tensor.contiguous)
                taken = layouts.dense_like(value, self.argument(arguments, how)) if isinstance(how, str) else how(value)
                if taken.untyped_storage()._cdata != value.untyped_storage()._cdata:
                    found += taken.nbytes
        return found

    def register_autograd(self, differentiate: Callable[..., Any], setup_context: Callable[..., None]) -> None:
        """As ``torch.library.register_autograd``; ``ctx.needs_input_grad`` may have further entries at its end."""
        self.setup_context, self.differentiate = setup_context, differentiate
        self.registered.register_autograd(differentiate, setup_context=setup_context)

    def refuse_derivatives(self) -> None:
        """Differentiating this op, the backward of another or one for evaluation, is an error that says what to do."""

        which = "second derivatives" if self.function.name.endswith("_backward") else "derivatives of it"

        def refuse(ctx: Any, *grads: Tensor) -> None:
            raise BackendError(
                f"{self.op.name}: the fused kernels have no {which}; use backend='reference' "
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


CUSTOM_OPS: dict[Any, CustomOp] = {}  # by operator


class _Plain(torch.autograd.Function):
    """An eager call. The op is passed last, so that gradients line up with its arguments."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Any:
        *inputs, ctx.op = arguments
        output = ctx.op.kernel(*inputs)
        ctx.op.setup_context(ctx, tuple(inputs), output)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return *ctx.op.differentiate(ctx, *grads), None


class _Derivatives:
    """What the names in the contract say of an op and its backward.

    Of backward's arguments, ``grad_y`` (or ``grad``, where there is one result) is the gradient of the result y, zeros
    where there is none unless it may be None; ``want_x`` says whether x needs a gradient; the others are results of the
    op, or its inputs, and saved. Its result ``grad_x`` is the gradient of the input x. Places are found from names
    here, once; a call only picks.
    """

    def __init__(self, op: CustomOp, backward: CustomOp, extra: Rules, more: Rules) -> None:
        self.backward, self.inputs = backward, len(op.parameters)
        inputs, results, arguments = op.parameters, op.function.results, backward.function.arguments
        grads = ["grad"] if "grad" in backward.parameters else [f"grad_{name}" for name in results]
        wants = [f"want_{name}" for name in inputs]
        known = (*grads, *wants)
        self.saved = [a.name for a in arguments if a.is_tensor and a.name not in known]
        self.kept = [a.name for a in arguments if not a.is_tensor and a.name not in known]
        self.kept += [name for name in extra if name not in backward.parameters]
        # Results come last, so that a name that is an input's too is the result's.
        found = (*inputs, *results, *extra)
        self.extra = [(find, _picker([_last(found, name) for name in _named(find)])) for find in extra.values()]
        self.save, self.keep = (_picker([_last(found, name) for name in names]) for names in (self.saved, self.kept))
        self.names = (*self.saved, *self.kept, *grads, *wants)  # of all that backward can know
        self.pick = _picker([self.names.index(name) for name in backward.parameters])
        # If some gradients may be None, of those that may not one is missing at times.
        self.optional = any(a.kind == "Tensor?" for a in arguments if a.name in grads)
        self.needed = next(place for place, name in enumerate(grads) if name in backward.parameters)
        gives = backward.function.results
        self.gradients = [
            (place, gives.index(f"grad_{name}"), self.saved.index(name))
            for place, name in enumerate(inputs)
            if f"grad_{name}" in gives
        ]
        self.on_request = all(f"want_{name.removeprefix('grad_')}" in backward.parameters for name in gives)
        self.more = [
            (inputs.index(name), find, _picker([self.names.index(seen) for seen in _named(find)]))
            for name, find in more.items()
            if name in inputs
        ]

    def setup_context(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        found = (*inputs, output) if isinstance(output, Tensor) else (*inputs, *output)
        for find, look_at in self.extra:
            found = (*found, find(*look_at(found)))
        ctx.save_for_backward(*self.save(found))
        ctx.kept = self.keep(found)
        if self.optional:
            needed = output[self.needed]
            ctx.needed = needed.shape, needed.dtype, needed.device
            ctx.set_materialize_grads(False)

    def differentiate(self, ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if self.optional and grads[self.needed] is None:
            shape, dtype, device = ctx.needed
            zeros = torch.zeros(shape, dtype=dtype, device=device)
            grads = (*grads[: self.needed], zeros, *grads[self.needed + 1 :])
        needs, saved = ctx.needs_input_grad[: self.inputs], ctx.saved_tensors
        values = (*saved, *ctx.kept, *grads, *needs)
        gradients: list[Tensor | None] = [None] * self.inputs
        if not self.on_request or any(needs[place] for place, _, _ in self.gradients):
            found = self.backward(*self.pick(values))
            for place, given, own in self.gradients:
                if needs[place]:
                    dtype = saved[own].dtype
                    gradients[place] = found[given] if found[given].dtype == dtype else found[given].to(dtype)
        for place, find, look_at in self.more:
            if needs[place]:
                gradients[place] = find(*look_at(values))
        return tuple(gradients)


def _named(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


def _last(names: Sequence[str], name: str) -> int:
    return len(names) - 1 - names[::-1].index(name)


def _picker(places: list[int]) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    """``itemgetter``, but of one place a tuple too."""
    return itemgetter(*places) if len(places) > 1 else lambda values: tuple(values[place] for place in places)


def derive(op: CustomOp, backward: CustomOp, extra: Rules | None = None, more: Rules | None = None) -> None:
    """Give ``op`` the derivatives that ``backward`` computes, by their names in the contract (``_Derivatives``).

    ``extra``: further values that backward takes, found from inputs and results when ``op`` has run. ``more``: further
    inputs' gradients, found from all that backward was given.
    """
    derivatives = _Derivatives(op, backward, extra or {}, more or {})
    op.register_autograd(derivatives.differentiate, derivatives.setup_context)


def define(op: contract.Op) -> CustomOp:
    """The custom op, with its backward as the contract has them, neither with a kernel of its own."""
    forward, backward = CustomOp(op), CustomOp(op, "backward")
    derive(forward, backward)
    backward.refuse_derivatives()
    return forward
