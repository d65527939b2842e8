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
from dmgan_fast.modules.rounding import autocast_dtype, rounded

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


class _Group(NamedTuple):
    """Some convolutions in a row, of one shape, whose weights follow each other in memory (``lay_side_by_side``)."""

    span: slice
    matrices: Tensor  # [N, O, I*k*k], a view

    def of(self, rows: Tensor, size: int) -> Tensor:
        """Their vectors of that size, which such rows begin with ``[N, size]``."""
        return rows[self.span, :size]


def lay_side_by_side(*modules: nn.Module) -> None:
    """Put weights of one shape in these modules one after another in memory, so that ``hold_weights`` needs a kernel
    for all of them where it needs one for each. The parameters stay the same objects.
    """
    by_shape: dict[Any, list[SpectralNormConv2d]] = {}
    for conv in (m for module in modules for m in module.modules() if isinstance(m, SpectralNormConv2d)):
        weight = conv.weight
        by_shape.setdefault((weight.shape, weight.stride(), weight.dtype, weight.device), []).append(conv)
    for convs in by_shape.values():
        for conv, own in zip(convs, torch.stack([conv.matrix().detach() for conv in convs]), strict=True):
            conv.weight.data = _laid_out_as(own, conv.weight)


def _grouped(convs: Sequence[SpectralNormConv2d]) -> Iterator[list[SpectralNormConv2d]]:
    """Those whose weights lie side by side, together."""
    by_storage: dict[Any, list[SpectralNormConv2d]] = {}
    for conv in convs:
        weight = conv.weight
        key = weight.untyped_storage()._cdata, weight.shape, weight.stride()
        by_storage.setdefault(key, []).append(conv)
    for found in by_storage.values():
        places, size = [conv.weight.storage_offset() for conv in found], found[0].weight.numel()
        if places == list(range(places[0], places[0] + len(places) * size, size)):
            yield found
        else:
            yield from ([conv] for conv in found)


class _Vectors:
    """u, v and sigma of some convolutions, after a power iteration of those whose mode asks for one; copies, so that a
    later iteration cannot reach this forward's backward.

    Vectors lie in rows of one tensor, ``rows_of_u [N, most outputs]`` and ``rows_of_v``, so that a few kernels do for
    all; ``us, vs``: the vectors alone, without what fills their rows up. ``sigma [N]`` is positive. ``convs`` are in
    the order of the rows: those whose weights lie side by side come together.
    """

    @torch.no_grad()
    def __init__(self, convs: Sequence[SpectralNormConv2d]) -> None:
        self.convs: list[SpectralNormConv2d] = []
        self.groups: list[_Group] = []
        for group in _grouped(convs):
            first, matrix = len(self.convs), group[0].matrix().detach()
            matrices = matrix.as_strided((len(group), *matrix.shape), (matrix.numel(), *matrix.stride()))
            self.convs += group
            self.groups.append(_Group(slice(first, first + len(group)), matrices))
        convs = self.convs
        heights, widths = ([conv.matrix().shape[axis] for conv in convs] for axis in (0, 1))
        like = convs[0].weight
        self.rows_of_u = like.new_zeros(len(convs), max(heights))
        self.rows_of_v = like.new_zeros(len(convs), max(widths))
        self.us = [row[:size] for row, size in zip(self.rows_of_u.unbind(), heights, strict=True)]
        self.vs = [row[:size] for row, size in zip(self.rows_of_v.unbind(), widths, strict=True)]
        # Where channels-last matrices have other columns than v.
        self.places = _places(convs, max(widths)) if any(is_channels_last(conv.weight) for conv in convs) else None
        torch._foreach_copy_(self.us, [conv.u for conv in convs])
        self.sigma = self._iterate() if all(conv.iterates for conv in convs) else self._as_they_are()

    def _times(self, given: Tensor, out: Tensor, *, transposed: bool = False) -> None:
        """Every matrix times its vector in the rows of ``given``, into those of ``out``."""
        for group in self.groups:
            matrices = group.matrices.transpose(1, 2) if transposed else group.matrices
            number, height, width = matrices.shape
            vectors, results = group.of(given, width), group.of(out, height)
            if number == 1:
                torch.mv(matrices[0], vectors[0], out=results[0])
            else:
                torch.bmm(matrices, vectors[:, :, None], out=results[:, :, None])

    def _iterate(self) -> Tensor:
        self._times(self.rows_of_u, self.rows_of_v, transposed=True)
        self.rows_of_v *= _inverse_norms(self.vs)[0][:, None]
        self._times(self.rows_of_v, self.rows_of_u)
        inverse, norms = _inverse_norms(self.us)
        self.rows_of_u *= inverse[:, None]
        torch._foreach_copy_([conv.u for conv in self.convs], self.us)
        self._store_v()
        return norms.square() * inverse  # u^T W v, where u = W v / |W v|

    def _as_they_are(self) -> Tensor:
        self._read_v()
        images = torch.zeros_like(self.rows_of_u)
        self._times(self.rows_of_v, images)
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
            weights are rounded and divided in one go; over several, gradients add up in float32.
    """
    modules = [m for module in held_modules for m in module.modules() if isinstance(m, HeldConv2d)]
    convs = [m for m in modules if isinstance(m, SpectralNormConv2d) and m.mode == "paper"]
    plain = [m for m in modules if not isinstance(m, SpectralNormConv2d)]
    dtype = autocast_dtype(convs[0].weight) if once and convs else None
    groups = [[conv for conv in convs if conv.iterates is iterates] for iterates in (True, False)]
    device = modules[0].weight.device.type if modules else "cpu"
    with torch.autocast(device, enabled=False):
        held: list[_Leaves | _Norms] = [_Norms(group, dtype) for group in groups if group]
        if dtype is not None and plain:
            held.append(_rounded(plain, dtype))
    try:
        yield
    finally:
        for conv in modules:
            conv.held = None
    with torch.autocast(device, enabled=False):
        _give([pair for each in held for pair in each.gradients()])


class _Leaves:
    """Leaves in place of parameters, with other values, for gradients that backward passes leave on them."""

    def __init__(self, parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        self.parameters = parameters
        self.leaves = [
            value.detach().requires_grad_(parameter.requires_grad)
            for parameter, value in zip(parameters, values, strict=True)
        ]

    def taken(self) -> list[Tensor | None]:
        """The gradients, which the leaves then have no more."""
        found = [leaf.grad for leaf in self.leaves]
        for leaf in self.leaves:
            leaf.grad = None
        return found

    @torch.no_grad()
    def gradients(self) -> list[tuple[Tensor, Tensor]]:
        """Parameters that were reached, and their gradients, in their type."""
        reached = [
            (p, gradient) for p, gradient in zip(self.parameters, self.taken(), strict=True) if gradient is not None
        ]
        if not reached or reached[0][0].dtype == reached[0][1].dtype:
            return reached
        wide = [(parameter, torch.empty_like(gradient, dtype=parameter.dtype)) for parameter, gradient in reached]
        torch._foreach_copy_([each for _, each in wide], [gradient for _, gradient in reached])
        return wide


class _Norms:
    """Spectral norms held: leaves for biases, and for weights that are as they are, or divided and rounded to
    ``dtype``."""

    @torch.no_grad()
    def __init__(self, convs: Sequence[SpectralNormConv2d], dtype: torch.dtype | None) -> None:
        self.found, self.rounded = _Vectors(convs), dtype is not None
        self.inverse = self.found.sigma.reciprocal()
        convs = self.found.convs
        weights, biases = [conv.weight for conv in convs], [conv.bias for conv in convs]
        inverses: Sequence[Tensor | None] = self.inverse.unbind()
        if dtype is None:
            self.weights, self.biases = _Leaves(weights, weights), _Leaves(biases, biases)
        else:
            self.weights, self.biases = _Leaves(weights, self._divided(dtype)), _Leaves(biases, rounded(biases, dtype))
            inverses = [None] * len(convs)
        for conv, weight, bias, inverse in zip(convs, self.weights.leaves, self.biases.leaves, inverses, strict=True):
            conv.held = Held(weight, bias, inverse)

    def _divided(self, dtype: torch.dtype) -> list[Tensor]:
        """Weights over their sigmas."""
        stacks = [torch.empty_like(group.matrices, dtype=dtype) for group in self.found.groups]
        for group, stack in zip(self.found.groups, stacks, strict=True):
            torch.mul(group.matrices, self.inverse[group.span, None, None], out=stack)
        return self._as_weights(stacks)

    def _as_weights(self, stacks: Sequence[Tensor]) -> list[Tensor]:
        """Matrices ``[N, O, I*k*k]`` of each group as weights ``[O, I, k, k]``, views."""
        matrices = [matrix for stack in stacks for matrix in stack.unbind()]
        return [_laid_out_as(matrix, conv.weight) for matrix, conv in zip(matrices, self.found.convs, strict=True)]

    @torch.no_grad()
    def gradients(self) -> list[tuple[Tensor, Tensor]]:
        """As those of ``_Leaves``, with what comes through sigma."""
        gradients = self.weights.taken()
        if any(gradient is not None for gradient in gradients):
            stacks = self._widened(gradients) if self.rounded else None
            self._add_through_sigma(gradients, stacks)
        reached = [pair for pair in zip(self.weights.parameters, gradients, strict=True) if pair[1] is not None]
        return [*reached, *self.biases.gradients()]  # type: ignore[list-item]

    def _widened(self, gradients: list[Tensor | None]) -> list[Tensor]:
        """In place of gradients of rounded weights, those of weights over constant sigmas; as they lie in memory, by
        group."""
        stacks = []
        for group in self.found.groups:
            whole = None not in gradients[group.span]
            stacks.append((torch.empty_like if whole else torch.zeros_like)(group.matrices))
        narrow = list(gradients)
        for k, wide in enumerate(self._as_weights(stacks)):
            gradients[k] = None if narrow[k] is None else wide
        pairs = [(wide, given) for wide, given in zip(gradients, narrow, strict=True) if wide is not None]
        torch._foreach_copy_(*map(list, zip(*pairs, strict=True)))  # type: ignore[arg-type]
        for group, stack in zip(self.found.groups, stacks, strict=True):
            stack *= self.inverse[group.span, None, None]
        return stacks

    def _add_through_sigma(self, gradients: Sequence[Tensor | None], stacks: Sequence[Tensor] | None) -> None:
        """``d loss / d W = G - <G, W> / sigma u v^T`` in place of G, the gradient of W with sigma held constant; None
        where there is none."""
        found, inner = self.found, torch.zeros_like(self.inverse)
        matrices = [None if gradient is None else _matrix(gradient) for gradient in gradients]
        for k, matrix in enumerate(matrices):
            if matrix is not None:
                torch.dot(matrix.flatten(), found.convs[k].matrix().detach().flatten(), out=inner[k])
        shares = found.rows_of_u * (inner * -self.inverse)[:, None]
        for place, group in enumerate(found.groups):
            first, number = group.span.start, len(group.matrices)
            _, height, width = group.matrices.shape
            us, vs = group.of(shares, height), group.of(found.rows_of_v, width)
            if stacks is not None and number > 1:
                stacks[place].baddbmm_(us[:, :, None], vs[:, None, :])
                continue
            for k in range(number):
                matrix = matrices[first + k]
                if matrix is not None:
                    matrix.addr_(us[k], vs[k])


def _rounded(convs: Sequence[HeldConv2d], dtype: torch.dtype) -> _Leaves:
    """Convolutions without a norm, held by leaves of that type."""
    parameters = [parameter for conv in convs for parameter in (conv.weight, conv.bias)]
    leaves = _Leaves(parameters, rounded(parameters, dtype))
    for conv, weight, bias in zip(convs, leaves.leaves[::2], leaves.leaves[1::2], strict=True):
        conv.held = Held(weight, bias, None)
    return leaves


def _give(found: list[tuple[Tensor, Tensor]]) -> None:
    """Add gradients to their parameters'; where there is none, the tensor itself becomes it. By autograd, for hooks."""
    if found:
        parameters, gradients = [parameter for parameter, _ in found], [gradient for _, gradient in found]
        found.clear()  # a gradient that is referred to is copied
        root = _Give.apply(gradients, *parameters)
        torch.autograd.backward(root, torch.empty_like(root))


class _Give(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradients: list[Tensor], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return parameters[0].new_empty(())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        gradients = tuple(ctx.gradients)
        ctx.gradients.clear()
        return None, *gradients


def _matrix(weight: Tensor) -> Tensor:
    """``[O, I, k, k]`` as ``[O, I*k*k]``, a view, columns in the order of memory."""
    return (weight.permute(0, 2, 3, 1) if is_channels_last(weight) else weight).flatten(1)


def _laid_out_as(matrix: Tensor, weight: Tensor) -> Tensor:
    """The view of a matrix that ``_matrix`` undoes, in the layout of a weight."""
    return matrix.as_strided(weight.shape, weight.stride(), matrix.storage_offset())


def _inverse_norms(vectors: list[Tensor]) -> tuple[Tensor, Tensor]:
    """``1 / (|x| + eps)`` and ``|x|`` of each vector ``[N]``."""
    norms = torch.stack(torch._foreach_norm(vectors))
    return (norms + NORM_EPS).reciprocal(), norms


def _unit(vector: Tensor) -> Tensor:
    return vector * (vector.norm() + NORM_EPS).reciprocal()
