"""Spectral norm: W / sigma(W), sigma = u^T W v by one power iteration (Miyato et al. 2018, algorithm 1).

`u` and `v` of a forward are constants of that forward: a later iteration never changes an earlier backward.
``hold_weights`` finds sigma once for any number of forward and backward passes, and divides inputs by it, not weights:
the weights of the deep layers are ten times as large as their inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MODES = ("paper", "official", "none")
NORM_EPS = 1e-12


class Held(NamedTuple):
    """A spectral norm within ``hold_weights``: a leaf that shares W's memory, 1 / sigma, and sigma's u and v."""

    weight: Tensor
    inverse: Tensor
    u: Tensor
    v: Tensor

    def gradient(self) -> Tensor | None:
        """``d loss / d W = G - <G, W> / sigma u v^T``, where G is the leaf's gradient, which is overwritten."""
        gradient = self.weight.grad
        if gradient is not None:
            inner = gradient.flatten().dot(self.weight.detach().flatten())
            gradient.view(len(gradient), -1).addr_(self.u * (-inner * self.inverse), self.v)
        return gradient


class SpectralNormConv2d(nn.Conv2d):
    """Convolution whose weight is divided by its largest singular value.

    ``mode``: ``"paper"`` iterates in forwards of training in which the weight learns; ``"official"`` on every
    forward, evaluation included, as the authors' code does; ``"none"`` is a plain convolution.
    Buffers ``u [O]`` and ``v [I*k*k]``, in float32 or wider.
    """

    u: Tensor
    v: Tensor
    held: Held | None = None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        mode: str = "paper",
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, padding=padding)
        self.mode = mode
        if mode != "none":
            self.register_buffer("u", _unit(torch.randn(out_channels)))
            self.register_buffer("v", _unit(torch.randn(self.weight[0].numel())))

    def forward(self, x: Tensor) -> Tensor:
        if self.held is not None:
            x, weight = x * self.held.inverse.to(x.dtype), self.held.weight
        else:
            weight = self.weight if self.mode == "none" else self.normalized_weight()
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)

    def normalized_weight(self) -> Tensor:
        """``W / (u^T W v)`` ``[O, I, k, k]``, after a power iteration where the mode asks for one."""
        with torch.autocast(self.weight.device.type, enabled=False):
            u, v, _ = self._singular_vectors()
            return self.weight / u.dot(self.weight.flatten(1).mv(v))

    @torch.no_grad()
    def hold(self) -> Held:
        """Sigma, after a power iteration where the mode asks for one, and a leaf for gradients."""
        with torch.autocast(self.weight.device.type, enabled=False):
            u, v, image = self._singular_vectors()
            weight = self.weight.detach().requires_grad_(self.weight.requires_grad)
            return Held(weight, u.dot(image).reciprocal(), u, v)

    @torch.no_grad()
    def _singular_vectors(self) -> tuple[Tensor, Tensor, Tensor]:
        """u, v and W v; copies, so that a later iteration cannot reach this forward's backward."""
        matrix = self.weight.flatten(1)
        if self.mode == "official" or (self.training and self.weight.requires_grad):
            v = _unit(matrix.t().mv(self.u))
            image = matrix.mv(v)
            u = _unit(image)
            self.u.copy_(u)
            self.v.copy_(v)
            return u, v, image
        return self.u.clone(), self.v.clone(), matrix.mv(self.v)


@contextmanager
def hold_weights(module: nn.Module) -> Iterator[None]:
    """Within, every spectral norm in ``module`` is computed once, however many forwards and backwards there are.

    Gradients are collected on leaves and reach the parameters' ``grad`` at the end. Norms of the mode ``"official"``
    iterate on every forward as ever.
    """
    convs = [m for m in module.modules() if isinstance(m, SpectralNormConv2d) and m.mode == "paper"]
    held = [conv.hold() for conv in convs]
    for conv, each in zip(convs, held, strict=True):
        conv.held = each
    try:
        yield
    finally:
        for conv in convs:
            conv.held = None
    with torch.no_grad():
        gradients = [each.gradient() for each in held]
    reached = [(conv.weight, g) for conv, g in zip(convs, gradients, strict=True) if g is not None]
    if reached:
        torch.autograd.backward(*zip(*reached, strict=True))  # type: ignore[arg-type]


def _unit(vector: Tensor) -> Tensor:
    return vector / (vector.norm() + NORM_EPS)
