"""Whether a fast forward does what a module's own forward does: both run on small inputs in float64.

Structure can't see what a ``forward`` computes, its source says little about what it calls, and a symbolic trace runs
it on stand-ins that it may keep. So a copy runs it: results, gradients of inputs and of parameters, and buffers must
agree, in training and in evaluation. In float64 every op is the reference, so that only the meaning is compared.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from dmgan_fast.compat.patching.classes import plain_class

EXACT = 1e-9  # relative
_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs",
)
Call = Callable[..., Any]
T = TypeVar("T")


def call(module: nn.Module, *inputs: Any) -> Any:
    """The module's own forward, to compare another with."""
    return module(*inputs)


def twin(module: nn.Module, instead: dict[nn.Module, nn.Module] | None = None) -> nn.Module:
    """A copy on the CPU in float64, of plain classes and without hooks; ``instead``: what stands for modules in it."""
    instead = instead or {}
    kind = plain_class(module)
    new: nn.Module = kind.__new__(kind)
    new.__dict__.update(vars(module))
    for hooks in _HOOKS:
        if hooks in vars(module):
            new.__dict__[hooks] = OrderedDict()
    parameters = {n: None if p is None else _exact(p, p.requires_grad) for n, p in module._parameters.items()}
    new.__dict__["_parameters"] = {
        n: p if p is None else nn.Parameter(p, p.requires_grad) for n, p in parameters.items()
    }
    new.__dict__["_buffers"] = {n: None if b is None else _exact(b) for n, b in module._buffers.items()}
    new.__dict__["_modules"] = {
        name: None if child is None else instead[child] if child in instead else twin(child, instead)
        for name, child in module._modules.items()
    }
    return new


def _exact(x: Tensor, requires_grad: bool = False) -> Tensor:
    wide = x.detach().to("cpu", torch.float64 if x.is_floating_point() else x.dtype)
    return (wide.clone() if wide.data_ptr() == x.data_ptr() else wide).requires_grad_(requires_grad)


def random(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers in float64, without PyTorch's global generator."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, device="cpu")


def why_differ(
    module: nn.Module,
    own: Call,
    fast: Call,
    inputs: Sequence[Any],
    *,
    modes: Sequence[bool] = (True, False),
    instead: Callable[[], dict[nn.Module, nn.Module]] = dict,
) -> str | None:
    """None if ``fast`` does what ``own`` does, else what differs.

    Args:
        own, fast: called with a twin of ``module`` and ``inputs``.
        modes: of training.
        instead: what stands for modules in each twin.
    """
    for training in modes:
        found = []
        for call in (own, fast):
            try:
                with _undisturbed():
                    found.append(_run(twin(module, instead()), call, inputs, training))
            except Exception as error:
                whose = "its forward" if call is own else "the fast forward"
                return f"{whose} raises {type(error).__name__}: {_short(error)}"
        reason = _compare(*found)
        if reason:
            return f"{reason} {'in training' if training else 'in evaluation'}"
    return None


# By class: what was found for a key, and the forward that it was found for.
_known: WeakKeyDictionary[type, dict[Hashable, tuple[ref[Any], Any]]] = WeakKeyDictionary()
_USUAL = frozenset(vars(nn.Module()))


def remembered(module: nn.Module, key: Hashable, find: Callable[[], T]) -> T:
    """What ``find`` says of ``module``, once for all that differ in tensors only.

    ``key``: what else it depends on. A module with attributes that may be anything is looked at every time.
    """
    own = {name: value for name, value in vars(module).items() if name not in _USUAL}
    kind = plain_class(module)
    if not all(value is None or type(value) in (bool, int, float, str) for value in own.values()):
        return find()
    known = _known.setdefault(kind, {})
    whole = (key, tuple(sorted((name, repr(value)) for name, value in own.items())))
    forward, result = known.get(whole, (None, None))
    if forward is None or forward() is not kind.forward:
        result = find()
        known[whole] = ref(kind.forward), result
    return result  # type: ignore[return-value]  # found for this key


def _short(error: Exception) -> str:
    return str(error).split("\n")[0][:100]


def _run(module: nn.Module, call: Call, inputs: Sequence[Any], training: bool) -> dict[str, list[Any]]:
    module.train(training)
    leaves = [_leaf(each) for each in inputs]
    flat = list(_flatten(call(module, *leaves)))
    scalars = [
        (each * random(*each.shape, seed=k + 1)).sum()
        for k, each in enumerate(flat)
        if isinstance(each, Tensor) and each.requires_grad
    ]
    if scalars:
        torch.stack(scalars).sum().backward()
    return {
        "its result": flat,
        "the gradient of an input": [each.grad for each in leaves if isinstance(each, Tensor)],
        "the gradient of a parameter": [each.grad for each in module.parameters()],
        "a buffer or fixed parameter": [*module.buffers(), *(p.detach() for p in module.parameters())],
    }


def _leaf(x: Any) -> Any:
    return x.clone().requires_grad_() if isinstance(x, Tensor) and x.is_floating_point() else x


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Within, none of the caller's modes counts; random numbers that are generated leave no trace."""
    with (
        torch.random.fork_rng(devices=[]),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast("cpu", enabled=False),
        torch.device("cpu"),
    ):
        yield


def _flatten(results: Any) -> Iterator[Any]:
    if isinstance(results, (tuple, list)):
        yield type(results)
        for each in results:
            yield from _flatten(each)
    elif isinstance(results, dict):
        yield from _flatten(list(results.items()))
    else:
        yield results


def _compare(own: dict[str, list[Any]], fast: dict[str, list[Any]]) -> str | None:
    for what, values in own.items():
        others = fast[what]
        if len(values) != len(others):
            return f"{what} has other parts"
        largest = max(
            (float(v.detach().abs().max()) for v in values if isinstance(v, Tensor) and v.numel()), default=0.0
        )
        for value, other in zip(values, others, strict=True):
            if not _same(value, other, EXACT * largest):  # what is 0 but for rounding has no scale of its own
                return f"{what} differs from that of the fast form"
    return None


def _same(value: Any, other: Any, tolerance: float) -> bool:
    if isinstance(value, Tensor) and isinstance(other, Tensor):
        alike = value.shape == other.shape and value.dtype == other.dtype
        return alike and (torch.equal(value, other) or torch.allclose(value, other, rtol=0, atol=tolerance))
    for one, missing in ((value, other), (other, value)):
        if isinstance(one, Tensor):  # a gradient of zero may be left out
            return missing is None and not one.any()
    return bool(value == other)
