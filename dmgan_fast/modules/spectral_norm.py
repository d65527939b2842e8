"""Spectral norm: W / sigma(W), sigma = u^T W v by one power iteration (Miyato et al. 2018, algorithm 1).

`u` and `v` of a forward are constants of that forward: a later iteration never changes an earlier backward.
``hold_weights`` finds sigma once for any number of forward and backward passes, and divides inputs by it, not weights:
the weights of the deep layers are ten times as large as their inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmgan_fast import functional
from dmgan_fast.errors import InputError

MODES = ("paper", "official", "none")
NORM_EPS = 1e-12


class Held(NamedTuple):
    """A spectral norm within ``hold_weights``: leaves that share the memory of W and the bias, 1 / sigma, and sigma's u
    and v."""

    weight: Tensor
    bias: Tensor
    inverse: Tensor
    u: Tensor
    v: Tensor

    def gradients(self) -> tuple[Tensor | None, Tensor | None]:
        """``d loss / d W = G - <G, W> / sigma u v^T``, where G, the gradient of the leaf, is overwritten; and of b."""
        gradient = self.weight.grad
        if gradient is not None:
            inner = gradient.flatten().dot(self.weight.detach().flatten())
            gradient.view(len(gradient), -1).addr_(self.u * (-inner * self.inverse), self.v)
        return gradient, self.bias.grad


class SpectralNormConv2d(nn.Conv2d):
    """Convolution whose weight is divided by its largest singular value.

    ``mode``: ``"paper"`` iterates in forwards of training in which the weight learns; ``"official"`` on every
    forward, evaluation included, as the authors' code does; ``"none"`` is a plain convolution.
    Buffers ``u [O]`` and ``v [I*k*k]``, in the dtype of the weight.
    """

    u: Tensor
    v: Tensor
    bias: Tensor
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
            # A number with no dimensions keeps its digits in the product, if it is not rounded to the type of x before.
            x, weight, bias = x * self.held.inverse, self.held.weight, self.held.bias
        else:
            weight, bias = self.weight if self.mode == "none" else self.normalized_weight(), self.bias
        if self.kernel_size == (4, 4) and self.stride == (2, 2) and self.padding == (1, 1):
            return functional.conv4x4_stride2(x, weight, bias)
        return F.conv2d(x, weight, bias, self.stride, self.padding)

    def normalized_weight(self) -> Tensor:
        """``W / (u^T W v)`` ``[O, I, k, k]``, after a power iteration where the mode asks for one."""
        with torch.autocast(self.weight.device.type, enabled=False):
            u, v, _ = self._singular_vectors()
            return self.weight / u.dot(self.weight.flatten(1).mv(v))

    @torch.no_grad()
    def hold(self) -> Held:
        """Sigma, after a power iteration where the mode asks for one, and a leaf for gradients."""
        with torch.autocast(self.weight.device.type, enabled=False):
            u, v, sigma = self._singular_vectors()
            return Held(_leaf(self.weight), _leaf(self.bias), sigma.reciprocal(), u, v)

    @torch.no_grad()
    def _singular_vectors(self) -> tuple[Tensor, Tensor, Tensor]:
        """u, v and sigma, which is positive; copies, so that a later iteration cannot reach this forward's backward."""
        matrix = self.weight.flatten(1)
        if self.mode == "official" or (self.training and self.weight.requires_grad):
            v = _unit(matrix.t().mv(self.u))
            image = matrix.mv(v)
            u = _unit(image)
            self.u.copy_(u)
            self.v.copy_(v)
            return u, v, u.dot(image)
        sigma = self.u.dot(matrix.mv(self.v))
        # Vectors that never iterated may point anywhere: v takes the sign that makes sigma positive.
        return self.u.clone(), self.v * sigma.sign(), sigma.abs()


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
        reached = [
            (parameter, gradient)
            for conv, each in zip(convs, held, strict=True)
            for parameter, gradient in zip((conv.weight, conv.bias), each.gradients(), strict=True)
            if gradient is not None
        ]
    if reached:
        torch.autograd.backward(*zip(*reached, strict=True))  # type: ignore[arg-type]


def _leaf(parameter: Tensor) -> Tensor:
    return parameter.detach().requires_grad_(parameter.requires_grad)


def _unit(vector: Tensor) -> Tensor:
    return vector / (vector.norm() + NORM_EPS)
