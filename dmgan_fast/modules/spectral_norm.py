"""Spectral norm: W / sigma(W), sigma = u^T W v by one power iteration (Miyato et al. 2018, algorithm 1).

`u` and `v` of a forward are constants of that forward: a later iteration never changes an earlier backward.
``hold_weights`` finds the sigmas of all convolutions of a model together, once for any number of forward and backward
passes, and divides inputs by them, not weights: the weights of the deep layers are ten times as large as their inputs.
In sixteen bits, where weights are rounded anyhow, it divides them while it rounds them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmgan_fast import functional
from dmgan_fast.devices import planned
from dmgan_fast.errors import InputError
from dmgan_fast.layouts import is_channels_last
from dmgan_fast.modules.rounding import autocast_dtype, round_together

MODES = ("paper", "official", "none")
NORM_EPS = 1e-12


class Held(NamedTuple):
    """A convolution within ``hold_weights``: leaves for gradients, and 1 / sigma, by which inputs are multiplied; None
    where the weight is divided already, or has no norm."""

    weight: Tensor
    bias: Tensor
    inverse: Tensor | None


class HeldConv2d(nn.Conv2d):
    """Convolution whose weight and bias ``hold_weights`` may hold."""

    bias: Tensor
    held: Held | None = None

    @property
    def operands(self) -> tuple[Tensor, Tensor]:
        """The weight and the bias that its result is made with."""
        return (self.weight, self.bias) if self.held is None else (self.held.weight, self.held.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, *self.operands, self.stride, self.padding)


class SpectralNormConv2d(HeldConv2d):
    """Convolution whose weight is divided by its largest singular value.

    ``mode``: ``"paper"`` iterates in forwards of training in which the weight learns; ``"official"`` on every
    forward, evaluation included, as the authors' code does; ``"none"`` is a plain convolution.
    Buffers ``u [O]`` and ``v [I*k*k]``, in the dtype of the weight.
    """

    u: Tensor
    v: Tensor

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
        return [_unit(torch.randn(size, **kind)) for size in (len(self.weight), self.weight[0].numel())]

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
            weight, bias, inverse = self.held
            # A number with no dimensions keeps its digits in the product, if it is not rounded to the type of x before.
            x = x if inverse is None else x * inverse
        else:
            weight, bias = self.weight if self.mode == "none" else self.normalized_weight(), self.bias
        if self.kernel_size == (4, 4) and self.stride == (2, 2) and self.padding == (1, 1):
            return functional.conv4x4_stride2(x, weight, bias)
        return F.conv2d(x, weight, bias, self.stride, self.padding)

    def normalized_weight(self) -> Tensor:
        """``W / (u^T W v)`` ``[O, I, k, k]``, after a power iteration where the mode asks for one."""
        with torch.autocast(self.weight.device.type, enabled=False):
            u, v = self._singular_vectors()
            return self.weight / u.dot(self.matrix().mv(v))

    @torch.no_grad()
    def _singular_vectors(self) -> tuple[Tensor, Tensor]:
        """u and v, which point so that sigma is positive; as ``_Vectors`` finds them for many, of one that compiles."""
        matrix = self.matrix()
        if self.iterates:
            v = _unit(matrix.t().mv(self.u))
            u = _unit(matrix.mv(v))
            self.u.copy_(u)
            stored = self.stored_v()
            stored.copy_(v.view(stored.shape))
            return u, v
        v = self.stored_v().flatten()
        return self.u.clone(), v * self.u.dot(matrix.mv(v)).sign()

    @property
    def iterates(self) -> bool:
        """Whether this forward takes a power iteration."""
        return self.mode == "official" or (self.training and self.weight.requires_grad)

    def matrix(self) -> Tensor:
        """The weight as it lies in memory, ``[O, I*k*k]``."""
        return _matrix(self.weight)

    def stored_v(self) -> Tensor:
        """``v`` in the order of the matrix's columns: a view of k by k by I where the weight is channels-last."""
        if not is_channels_last(self.weight):
            return self.v
        return self.v.view(self.weight.shape[1:]).permute(1, 2, 0)


class _Vectors:
    """u, v and sigma of some convolutions, after a power iteration of those whose mode asks for one; copies, so that a
    later iteration cannot reach this forward's backward.

    Vectors lie in rows of one tensor, ``rows_of_u [N, most outputs]`` and ``rows_of_v``, so that a few kernels do for
    all; ``us, vs``: the vectors alone, without what fills their rows up. ``sigma [N]`` is positive.
    """

    @torch.no_grad()
    def __init__(self, convs: Sequence[SpectralNormConv2d]) -> None:
        self.convs = convs
        matrices = [conv.matrix() for conv in convs]
        heights, widths = ([m.shape[axis] for m in matrices] for axis in (0, 1))
        like = convs[0].weight
        self.rows_of_u = like.new_zeros(len(convs), max(heights))
        self.rows_of_v = like.new_zeros(len(convs), max(widths))
        self.us = [row[:size] for row, size in zip(self.rows_of_u.unbind(), heights, strict=True)]
        self.vs = [row[:size] for row, size in zip(self.rows_of_v.unbind(), widths, strict=True)]
        # Where channels-last matrices have other columns than v.
        self.places = _places(convs, max(widths)) if any(is_channels_last(conv.weight) for conv in convs) else None
        if all(conv.iterates for conv in convs):
            self.sigma = self._iterate(matrices)
        else:
            self.sigma = self._as_they_are(matrices)

    def _iterate(self, matrices: list[Tensor]) -> Tensor:
        for conv, matrix, v in zip(self.convs, matrices, self.vs, strict=True):
            torch.mv(matrix.t(), conv.u, out=v)
        self.rows_of_v *= _inverse_norms(self.vs)[0][:, None]
        for matrix, u, v in zip(matrices, self.us, self.vs, strict=True):
            torch.mv(matrix, v, out=u)
        inverse, norms = _inverse_norms(self.us)
        self.rows_of_u *= inverse[:, None]
        torch._foreach_copy_([conv.u for conv in self.convs], self.us)
        self._store_v()
        return norms.square() * inverse  # u^T W v, where u = W v / |W v|

    def _as_they_are(self, matrices: list[Tensor]) -> Tensor:
        torch._foreach_copy_(self.us, [conv.u for conv in self.convs])
        self._read_v()
        images = torch.zeros_like(self.rows_of_u)
        for matrix, row, v in zip(matrices, images.unbind(), self.vs, strict=True):
            torch.mv(matrix, v, out=row[: len(matrix)])
        sigma = (images * self.rows_of_u).sum(1)
        # Vectors that never iterated may point anywhere: v takes the sign that makes sigma positive.
        self.rows_of_v *= sigma.sign()[:, None]
        return sigma.abs()

    def _read_v(self) -> None:
        stored = [conv.v for conv in self.convs]
        if self.places is None:
            torch._foreach_copy_(self.vs, stored)
        else:
            torch.index_select(torch.cat(stored), 0, self.places[0], out=self.rows_of_v.view(-1))

    def _store_v(self) -> None:
        stored, found = [conv.v for conv in self.convs], self.vs
        if self.places is not None:
            found = list(self.rows_of_v.view(-1).index_select(0, self.places[1]).split([len(v) for v in stored]))
        torch._foreach_copy_(stored, found)


_PLACES: dict[Any, tuple[Tensor, Tensor]] = {}  # a CUDA graph reads them


def _places(convs: Sequence[SpectralNormConv2d], width: int) -> tuple[Tensor, Tensor]:
    """Of each element of ``rows_of_v`` the place in the joined vectors ``v``, any for what fills a row up; and back."""
    shapes = tuple((conv.weight.shape[1:], is_channels_last(conv.weight)) for conv in convs)
    like = convs[0].v
    key = shapes, width, like.device, type(like), planned()
    if key not in _PLACES:
        to_rows, back, first = [], [], 0
        for row, (shape, last) in enumerate(shapes):
            own = torch.arange(shape.numel(), device=like.device).view(shape)
            order = (own.permute(1, 2, 0) if last else own).flatten()  # places in v by column
            to_rows.append(F.pad(order + first, (0, width - len(order))))
            back.append(order.argsort() + row * width)
            first += len(order)
        _PLACES[key] = torch.cat(to_rows), torch.cat(back)
    return _PLACES[key]


@contextmanager
def hold_weights(*held_modules: nn.Module, once: bool = False) -> Iterator[None]:
    """Within, every spectral norm in these modules is computed once, however many forwards and backwards there are.

    Gradients are collected on leaves and reach the parameters' ``grad`` at the end. Norms of the mode ``"official"``
    iterate on every forward as ever.

    Args:
        once: by each weight there is one backward at most. Under autocast the leaves are then of its type, so that
            weights are rounded and divided in one go, and parameters have their gradients after each backward; over
            several, gradients add up in float32.
    """
    modules = [m for module in held_modules for m in module.modules() if isinstance(m, HeldConv2d)]
    convs = [m for m in modules if isinstance(m, SpectralNormConv2d) and m.mode == "paper"]
    plain = [m for m in modules if not isinstance(m, SpectralNormConv2d)]
    groups = [[conv for conv in convs if conv.iterates is iterates] for iterates in (True, False)]
    dtype = autocast_dtype(convs[0].weight) if once and convs else None
    held = [_hold(group, dtype) for group in groups if group]
    if dtype is not None and plain:
        _hold_rounded(plain, [conv.weight for conv in plain], dtype)
    try:
        yield
    finally:
        for conv in modules:
            conv.held = None
    reached = [pair for each in held if isinstance(each, _Leaves) for pair in each.gradients()]
    if reached:
        torch.autograd.backward(*zip(*reached, strict=True))  # type: ignore[arg-type]


def _hold(convs: list[SpectralNormConv2d], dtype: torch.dtype | None) -> _Leaves | _Rounded:
    with torch.autocast(convs[0].weight.device.type, enabled=False):
        return _Leaves(convs) if dtype is None else _Rounded(convs, dtype)


class _Leaves:
    """What convolutions are held by for several backward passes: leaves that share the memory of their parameters."""

    def __init__(self, convs: list[SpectralNormConv2d]) -> None:
        self.convs, self.found = convs, _Vectors(convs)
        self.inverse = self.found.sigma.reciprocal()
        for conv, inverse in zip(convs, self.inverse.unbind(), strict=True):
            conv.held = Held(_leaf(conv.weight), _leaf(conv.bias), inverse)
        self.held = [conv.held for conv in convs]

    @torch.no_grad()
    def gradients(self) -> list[tuple[Tensor, Tensor]]:
        """Parameters that were reached, and their gradients."""
        leaves = [(each.weight.grad, each.bias.grad) for each in self.held if each is not None]
        _through_sigma(self.found, self.inverse, [weight for weight, _ in leaves])
        parameters = [(conv.weight, conv.bias) for conv in self.convs]
        return [
            (parameter, gradient)
            for pair in zip(parameters, leaves, strict=True)
            for parameter, gradient in zip(*pair, strict=True)
            if gradient is not None
        ]


class _Rounded:
    """What convolutions are held by for one backward pass: weights that are divided and rounded in one go."""

    inverse: Tensor

    def __init__(self, convs: list[SpectralNormConv2d], dtype: torch.dtype) -> None:
        self.convs, self.dtype, self.found = convs, dtype, _Vectors(convs)
        _hold_rounded(convs, _Divide.apply(self, *(conv.weight for conv in convs)), dtype)


def _hold_rounded(convs: Sequence[HeldConv2d], weights: Sequence[Tensor], dtype: torch.dtype) -> None:
    """By the weights, which are rounded unless they are already, and by rounded biases."""
    done = weights if weights[0].dtype == dtype else ()
    rounded = round_together([*weights[len(done) :], *(conv.bias for conv in convs)], dtype)
    for conv, weight, bias in zip(convs, done or rounded[: len(convs)], rounded[-len(convs) :], strict=True):
        conv.held = Held(weight, bias, None)


class _Divide(torch.autograd.Function):
    """Weights of a group over their sigmas in sixteen bits, and their gradients in float32."""

    @staticmethod
    def forward(ctx: Any, group: _Rounded, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.group = group
        ctx.set_materialize_grads(False)
        group.inverse = group.found.sigma.reciprocal()
        divided = [torch.empty_like(weight, dtype=group.dtype) for weight in weights]
        for weight, result, inverse in zip(weights, divided, group.inverse.unbind(), strict=True):
            torch.mul(weight, inverse, out=result)
        return tuple(divided)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        group: _Rounded = ctx.group
        found: list[Tensor | None] = [
            None if gradient is None else torch.empty_like(conv.weight)
            for conv, gradient in zip(group.convs, grads, strict=True)
        ]
        for wide, gradient, inverse in zip(found, grads, group.inverse.split(1), strict=True):
            if wide is not None and gradient is not None:
                torch.mul(gradient, inverse, out=wide)  # a factor with a dimension widens the product to its type
        _through_sigma(group.found, group.inverse, found)
        return None, *found


def _through_sigma(found: _Vectors, inverse: Tensor, gradients: list[Tensor | None]) -> None:
    """``d loss / d W = G - <G, W> / sigma u v^T`` in place of G, the gradient of W with sigma held constant; None where
    there is none."""
    reached = [(k, gradient) for k, gradient in enumerate(gradients) if gradient is not None]
    if not reached:
        return
    inner = torch.zeros_like(inverse)
    for k, gradient in reached:
        weight = found.convs[k].matrix().detach()
        torch.dot(_matrix(gradient).flatten(), weight.flatten(), out=inner[k])
    shares = found.rows_of_u * (inner * -inverse)[:, None]
    for k, gradient in reached:
        _matrix(gradient).addr_(shares[k, : len(gradient)], found.vs[k])


def _matrix(weight: Tensor) -> Tensor:
    """``[O, I, k, k]`` as ``[O, I*k*k]``, a view, columns in the order of memory."""
    return (weight.permute(0, 2, 3, 1) if is_channels_last(weight) else weight).flatten(1)


def _inverse_norms(vectors: list[Tensor]) -> tuple[Tensor, Tensor]:
    """``1 / (|x| + eps)`` and ``|x|`` of each vector ``[N]``."""
    norms = torch.stack(torch._foreach_norm(vectors))
    return (norms + NORM_EPS).reciprocal(), norms


def _leaf(parameter: Tensor) -> Tensor:
    return parameter.detach().requires_grad_(parameter.requires_grad)


def _unit(vector: Tensor) -> Tensor:
    return vector * (vector.norm() + NORM_EPS).reciprocal()
