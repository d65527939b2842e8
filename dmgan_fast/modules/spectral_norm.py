"""Spectral norm: W / sigma(W), sigma = u^T W v by one power iteration (Miyato et al. 2018, algorithm 1).

`u` and `v` of a forward are constants of that forward: a later iteration never changes an earlier backward.
``hold_weights`` normalises once for any number of forward and backward passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MODES = ("paper", "official", "none")
NORM_EPS = 1e-12


class SpectralNormConv2d(nn.Conv2d):
    """Convolution whose weight is divided by its largest singular value.

    ``mode``: ``"paper"`` iterates in forwards of training in which the weight learns; ``"official"`` on every
    forward, evaluation included, as the authors' code does; ``"none"`` is a plain convolution.
    Buffers ``u [O]`` and ``v [I*k*k]``, in float32 or wider.
    """

    u: Tensor
    v: Tensor
    held: Tensor | None = None  # the normalised weight, within ``hold_weights``

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
        weight = self.held
        if weight is None:
            weight = self.weight if self.mode == "none" else self.normalized_weight()
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)

    def normalized_weight(self) -> Tensor:
        """``W / (u^T W v)`` ``[O, I, k, k]``, after a power iteration where the mode asks for one."""
        with torch.autocast(self.weight.device.type, enabled=False):
            matrix = self.weight.flatten(1)
            if self.mode == "official" or (self.training and self.weight.requires_grad):
                with torch.no_grad():
                    v = _unit(matrix.t().mv(self.u))
                    u = _unit(matrix.mv(v))
                    self.u.copy_(u)
                    self.v.copy_(v)
            else:  # copies, so that a later iteration cannot reach this forward's backward
                u, v = self.u.clone(), self.v.clone()
            return self.weight / u.dot(matrix.mv(v))


@contextmanager
def hold_weights(module: nn.Module) -> Iterator[None]:
    """Within, every spectral norm in ``module`` is computed once, however many forwards and backwards there are.

    Gradients are collected on the normalised weights and reach the parameters' ``grad`` at the end. Norms of the mode
    ``"official"`` iterate on every forward as ever.
    """
    convs = [m for m in module.modules() if isinstance(m, SpectralNormConv2d) and m.mode == "paper"]
    weights = [conv.normalized_weight() for conv in convs]
    leaves = [weight.detach().requires_grad_(weight.requires_grad) for weight in weights]
    for conv, leaf in zip(convs, leaves, strict=True):
        conv.held = leaf
    try:
        yield
    finally:
        for conv in convs:
            conv.held = None
    reached = [(weight, leaf.grad) for weight, leaf in zip(weights, leaves, strict=True) if leaf.grad is not None]
    if reached:
        torch.autograd.backward(*zip(*reached, strict=True))  # type: ignore[arg-type]


def _unit(vector: Tensor) -> Tensor:
    return vector / (vector.norm() + NORM_EPS)
