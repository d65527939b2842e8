"""Spectral-norm wrappers: a module around one convolution whose weight is ``*_bar``, with vectors ``*_u`` and ``*_v``.

The authors' wrapper makes a power iteration on every forward and keeps ``W / sigma`` for backward. Here the smaller of
W and x is divided instead, and W is read twice, not six times. Their backward uses the vectors that stand in the module
when it runs, not those of its forward, where one forward follows another: if the wrapper does so, so does this.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dmgan_fast.compat.patching import alike
from dmgan_fast.compat.patching.blocks import convolve
from dmgan_fast.compat.patching.classes import FastForward, plain_class
from dmgan_fast.compat.patching.guards import own_tensors, takes
from dmgan_fast.compat.patching.rules import Found, Options, Refused

NORM_EPS = 1e-12  # the authors'
WHAT = "spectral norm of a convolution"


class _Shared(torch.autograd.Function):
    """W and 1 / sigma as two results, so that both gradients of W meet in one pass. ``late``: see the module."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, inverse: Tensor, u: Tensor, v: Tensor, late: bool) -> tuple[Tensor, Tensor]:
        ctx.vectors = (u, v) if late else (u.detach().clone(), v.detach().clone())
        ctx.set_materialize_grads(False)
        inverse = inverse.clone()
        ctx.save_for_backward(weight, inverse)
        return weight.detach(), inverse

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, grad_inverse: Tensor | None) -> Any:  # type: ignore[override]
        weight, inverse = ctx.saved_tensors
        others = (None, None, None, None)
        if grad_inverse is None:
            return grad, *others
        u, v = (each.detach() for each in ctx.vectors)
        scaled = u * (-grad_inverse * inverse.square())  # d (1 / sigma) = - u v^T / sigma² dW
        if grad is None:
            return torch.outer(scaled, v).view_as(weight), *others
        if torch.is_grad_enabled() or not grad.is_contiguous():
            return torch.addr(grad.flatten(1), scaled, v).view_as(weight), *others
        grad.view(len(grad), -1).addr_(scaled, v)  # made for us: nobody else sees our W
        return grad, *others


def _parts(module: nn.Module) -> tuple[nn.Conv2d, str] | None:
    """The convolution of a wrapper, and the name of its weight; None for any other module."""
    if own_tensors(module) or len(module._modules) != 1:
        return None
    (conv,) = module._modules.values()
    if not isinstance(conv, nn.Conv2d):
        return None
    tensors = conv._parameters
    for name in tensors:
        stem = name.removesuffix("_bar")
        if stem != name and stem not in tensors and {f"{stem}_u", f"{stem}_v"} <= tensors.keys():
            return conv, stem
    return None


def spectral_conv(module: Any, x: Tensor, late: bool, fast: bool = True) -> Tensor:
    """The convolution by ``W / sigma`` after the wrapper's power iterations."""
    conv, name = _parts(module)  # type: ignore[misc]  # it has been recognised
    tensors: dict[str, Any] = conv._parameters
    weight, u, v = (tensors[f"{name}_{part}"] for part in ("bar", "u", "v"))
    matrix = weight.detach().flatten(1)
    image = matrix.mv(v.detach())
    for _ in range(module.power_iterations):
        v.data = _unit(matrix.t().mv(u.detach()))
        image = matrix.mv(v.detach())
        u.data = _unit(image)
    inverse = u.detach().dot(image).reciprocal()
    shared, inverse = _Shared.apply(weight, inverse, u, v, late)  # type: ignore[no-untyped-call]
    if weight.numel() < x.numel():
        return convolve(conv, x, shared * inverse, fast=fast)
    return convolve(conv, x * inverse, shared, fast=fast)


def _unit(x: Tensor) -> Tensor:
    return x / (x.norm() + NORM_EPS)


def _run(late: bool, fast: bool, own: FastForward, self: Any, *inputs: Any) -> Any:
    parts = _parts(self)
    if parts is None or len(inputs) != 1:
        return own(self, *inputs)
    conv, name = parts
    fits = plain_class(conv) is nn.Conv2d and conv.padding_mode == "zeros"
    if not (fits and takes(inputs[0], conv._parameters[f"{name}_bar"])):
        return own(self, *inputs)
    return spectral_conv(self, inputs[0], late, fast)


def recognise_spectral_norm(module: nn.Module, options: Options) -> Found | Refused | None:
    if not options.spectral_norm:
        return None
    parts = _parts(module)
    if parts is None:
        return None
    conv, name = parts
    if plain_class(conv) is not nn.Conv2d or conv.padding_mode != "zeros":
        return Refused(WHAT, "it is around a convolution of another kind")
    iterations: Any = getattr(module, "power_iterations", None)
    if not isinstance(iterations, int) or iterations < 1:
        return Refused(WHAT, "it does not say how many power iterations it makes (power_iterations)")
    geometry = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.bias is None)
    late, reason = alike.remembered(module, (WHAT, name, geometry), lambda: _vectors(module, conv, name))
    if reason:
        return Refused(WHAT, reason)
    fast = partial(_run, late, options.convolutions)
    return Found(WHAT, fast, ("spectral_norm", late, options.convolutions), (conv,))


def _vectors(module: nn.Module, conv: nn.Conv2d, name: str) -> tuple[bool, str | None]:
    """Whether its backward takes the vectors of later forwards, and why it is no spectral norm of this kind."""
    size = max(conv.kernel_size) + 2
    # One input is smaller than the weight, the other is larger.
    inputs = [alike.random(batch, 2 * conv.groups, side, side) for batch, side in ((1, size), (3, 3 * size))]
    reason = None
    for late in (True, False):
        reason = alike.why_differ(
            module,
            lambda m, x, y: (m(x), m(y)),
            lambda m, x, y, late=late: (spectral_conv(m, x, late, False), spectral_conv(m, y, late, False)),
            inputs,
            instead=lambda: {conv: _small(conv, name)},
        )
        if reason is None:
            return late, None
    return False, reason


def _small(conv: nn.Conv2d, name: str) -> nn.Module:
    """A convolution of a few channels, wrapped as ``conv`` is."""
    width = 2 * conv.groups
    geometry = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups)
    small = nn.Conv2d(width, width, *geometry, bias=conv.bias is not None, dtype=torch.float64)  # type: ignore[arg-type]
    weight = alike.random(*small._parameters.pop("weight").shape, seed=7)  # type: ignore[union-attr]
    small.register_parameter(f"{name}_bar", nn.Parameter(weight))
    for part, size in (("u", len(weight)), ("v", weight[0].numel())):
        vector = nn.Parameter(_unit(alike.random(size, seed=8)), requires_grad=False)
        small.register_parameter(f"{name}_{part}", vector)
    if small.bias is not None:
        nn.init.constant_(small.bias, 0.5)
    return small
