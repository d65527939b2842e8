"""Spectral norm: W / sigma(W), sigma = u^T W v by one power iteration (Miyato et al. 2018, algorithm 1).

`u` and `v` of a forward are constants of that forward: a later iteration never changes an earlier backward.
``hold_weights`` finds sigma once for any number of forward and backward passes, and divides inputs by it, not weights:
the weights of the deep layers are ten times as large as their inputs. ``in_series`` divides one weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmgan_fast import functional
from dmgan_fast.errors import InputError

MODES = ("paper", "official", "none")
NORM_EPS = 1e-12


@dataclass
class Held:
    """A spectral norm within ``hold_weights``: leaves that share the memory of W and the bias, 1 / sigma, and sigma's u
    and v; ``before``: the one whose activation is this one's only input, and goes nowhere else."""

    weight: Tensor
    bias: Tensor
    inverse: Tensor
    u: Tensor
    v: Tensor
    before: Held | None = None

    @cached_property
    def inner(self) -> Tensor:
        """``<G, W>`` where G is the gradient of the leaf.

        A convolution y is linear in W and in its input x, so ``<G, W> = <dx, x> = <dy, y>``; adding a bias adds
        ``<db, b>``, and a homogeneous activation changes nothing. Down a series only biases are multiplied.
        """
        if self.before is None:
            return _dot(self.weight)
        return self.before.inner + _dot(self.before.bias)

    def take_gradients(self) -> tuple[Tensor | None, Tensor | None]:
        """``d loss / d W = G - <G, W> / sigma u v^T``, in G's memory, and that of the bias. A series goes in its order:
        ``inner`` needs the first G before it is overwritten."""
        gradient = self.weight.grad
        if gradient is not None:
            gradient.view(len(gradient), -1).addr_(self.u * (-self.inner * self.inverse), self.v)
        self.weight.grad = None
        return gradient, self.bias.grad


def _dot(leaf: Tensor) -> Tensor:
    assert leaf.grad is not None
    return leaf.grad.flatten().dot(leaf.detach().flatten())


class SpectralNormConv2d(nn.Conv2d):
    """Convolution whose weight is divided by its largest singular value.

    ``mode``: ``"paper"`` iterates in forwards of training in which the weight learns; ``"official"`` on every
    forward, evaluation included, as the authors' code does; ``"none"`` is a plain convolution.
    Buffers ``u [O]`` and ``v [I*k*k]``, in the dtype of the weight.
    """

    u: Tensor
    v: Tensor
    held: Held | None = None
    kept: tuple[tuple[int, int, int], Tensor] | None = None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        mode: str = "paper",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if mode not in MODES:
            raise InputError(f"SpectralNormConv2d: mode must be one of {', '.join(MODES)}, got {mode!r}")
        super().__init__(
            in_channels, out_channels, kernel_size, stride=stride, padding=padding, device=device, dtype=dtype
        )
        self.mode = mode
        if mode != "none":
            u, v = self._vectors()
            self.register_buffer("u", u)
            self.register_buffer("v", v)

    def _vectors(self) -> list[Tensor]:
        kind: Any = {"device": self.weight.device, "dtype": self.weight.dtype}
        return _units([torch.randn(len(self.weight), **kind), torch.randn(self.weight[0].numel(), **kind)])

    def reset_parameters(self) -> None:
        """As PyTorch starts a convolution; u and v point anywhere again."""
        super().reset_parameters()
        if "u" in self._buffers:  # not yet while it is made
            with torch.no_grad():
                for buffer, vector in zip((self.u, self.v), self._vectors(), strict=True):
                    buffer.copy_(vector)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, mode={self.mode!r}"

    def forward(self, x: Tensor) -> Tensor:
        if self.held is not None:
            # A number with no dimensions keeps its digits in the product, if it is not rounded to the type of x before.
            x, weight = x * self.held.inverse, self.held.weight
        else:
            weight = self.weight if self.mode == "none" else self.normalized_weight()
        return self.convolve(x, weight, self.bias if self.held is None else self.held.bias)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """``x`` through a convolution of this one's geometry."""
        if self.kernel_size == (4, 4) and self.stride == (2, 2) and self.padding == (1, 1):
            return functional.conv4x4_stride2(x, weight, bias)
        return F.conv2d(x, weight, bias, self.stride, self.padding)

    def normalized_weight(self) -> Tensor:
        """``W / (u^T W v)`` ``[O, I, k, k]``, after a power iteration where the mode asks for one."""
        with torch.autocast(self.weight.device.type, enabled=False):
            ((u, v, _),) = _singular_vectors([self], [self.product_with_u()])
            return self.weight / u.dot(self.weight.flatten(1).mv(v))

    @property
    def iterates(self) -> bool:
        """Whether a forward makes a power iteration."""
        return self.mode == "official" or (self.training and self.weight.requires_grad)

    def product_with_u(self) -> Tensor:
        """``W^T u``, a constant."""
        return self.weight.detach().flatten(1).t().mv(self.u)

    def product_within_step(self) -> Tensor:
        """``W^T u``: found for the generator's part of a step it is kept, and the next step's iteration begins with it,
        if W and u are what they were. Not on a GPU: a captured graph would go on reading that tensor, and W is read
        fast there."""
        kept, self.kept = self.kept, None
        versions = id(self.weight), self.weight._version, self.u._version
        if self.iterates and kept is not None and kept[0] == versions:
            return kept[1]
        product = self.product_with_u()
        if not self.iterates and product.is_cpu:
            self.kept = versions, product
        return product


def in_series(convs: Sequence[nn.Module], x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """``x`` through ``convs``, each followed by ``activation``, which is homogeneous: ``a(s x) = s a(x)`` for s > 0.

    Of weights that are held, all sigmas divide the first, which is small, and each bias is divided by those that come
    after it: an intermediate result is what it would be, over the sigmas still to come. Float16 has no room for that.
    """
    held = [conv.held for conv in convs if isinstance(conv, SpectralNormConv2d) and conv.held is not None]
    for before, each in pairwise(held):
        each.before = before if before.weight.requires_grad and before.bias.requires_grad else None
    if len(held) < len(convs) or _computes_in_float16(x):
        for conv in convs:
            x = activation(conv(x))
        return x
    scales = torch.stack([each.inverse for each in held]).flip(0).cumprod(0).flip(0)  # 1 / sigma of each and later ones
    weights = [held[0].weight * scales[0], *(each.weight for each in held[1:])]
    biases = [*(each.bias * scale for each, scale in zip(held, scales[1:], strict=False)), held[-1].bias]
    for conv, weight, bias in zip(convs, weights, biases, strict=True):
        assert isinstance(conv, SpectralNormConv2d)
        x = activation(conv.convolve(x, weight, bias))
    return x


def _computes_in_float16(x: Tensor) -> bool:
    kind = x.device.type
    return x.dtype == torch.float16 or (
        torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16
    )


@contextmanager
def hold_weights(module: nn.Module) -> Iterator[None]:
    """Within, every spectral norm in ``module`` is computed once, however many forwards and backwards there are.

    Gradients are collected on leaves and reach the parameters' ``grad`` at the end. Norms of the mode ``"official"``
    iterate on every forward as ever.
    """
    convs = [m for m in module.modules() if isinstance(m, SpectralNormConv2d) and m.mode == "paper"]
    held = _hold(convs)
    for conv, each in zip(convs, held, strict=True):
        conv.held = each
    try:
        yield
    finally:
        for conv in convs:
            conv.held = None
    with torch.no_grad():
        reached = [
            (parameter, gradient)
            for conv, each in zip(convs, held, strict=True)
            for parameter, gradient in zip((conv.weight, conv.bias), each.take_gradients(), strict=True)
            if gradient is not None
        ]
    if reached:
        parameters, gradients = map(list, zip(*reached, strict=True))
        reached.clear()
        _Hand.apply(gradients, *parameters).backward()


def forget_products(module: nn.Module) -> None:
    """Have the next power iterations begin anew, as the first of all."""
    for conv in module.modules():
        if isinstance(conv, SpectralNormConv2d):
            conv.kept = None


@torch.no_grad()
def _hold(convs: list[SpectralNormConv2d]) -> list[Held]:
    if not convs:
        return []
    with torch.autocast(convs[0].weight.device.type, enabled=False):
        vectors = _singular_vectors(convs, [conv.product_within_step() for conv in convs])
        inverses = [sigma for _, _, sigma in vectors]
        torch._foreach_reciprocal_(inverses)
    return [
        Held(_leaf(conv.weight), _leaf(conv.bias), inverse, u, v)  # type: ignore[arg-type]  # there is a bias
        for conv, inverse, (u, v, _) in zip(convs, inverses, vectors, strict=True)
    ]


class _Hand(torch.autograd.Function):
    """Gradients to parameters, through their hooks and without a copy: nobody else holds them then."""

    @staticmethod
    def forward(ctx: Any, gradients: list[Tensor], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return parameters[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        handed = (None, *ctx.gradients)
        ctx.gradients.clear()
        return handed


def _leaf(parameter: Tensor) -> Tensor:
    return parameter.detach().requires_grad_(parameter.requires_grad)


@torch.no_grad()
def _singular_vectors(convs: list[SpectralNormConv2d], products: list[Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """u, v and sigma of each, after a power iteration where the mode asks for one; ``products``: W^T u of each. u and v
    are copies: a later iteration cannot reach this forward's backward."""
    found = {}
    iterating = [conv for conv in convs if conv.iterates]
    if iterating:
        vs = _units([product for conv, product in zip(convs, products, strict=True) if conv.iterates])
        images = [conv.weight.flatten(1).mv(v) for conv, v in zip(iterating, vs, strict=True)]
        us = _units(images)
        torch._foreach_copy_([conv.u for conv in iterating], us)
        torch._foreach_copy_([conv.v for conv in iterating], vs)
        sigmas = [u.dot(image) for u, image in zip(us, images, strict=True)]
        found = dict(zip(iterating, zip(us, vs, sigmas, strict=True), strict=True))
    return [
        found[conv] if conv in found else _as_they_are(conv, product)
        for conv, product in zip(convs, products, strict=True)
    ]


def _as_they_are(conv: SpectralNormConv2d, product: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """v with the sign that makes sigma positive: vectors that never iterated may point anywhere."""
    sigma = product.dot(conv.v)
    return conv.u.clone(), conv.v * sigma.sign(), sigma.abs()


def _units(vectors: list[Tensor]) -> list[Tensor]:
    norms = torch._foreach_norm(vectors)
    torch._foreach_add_(norms, NORM_EPS)
    return list(torch._foreach_div(vectors, norms))
