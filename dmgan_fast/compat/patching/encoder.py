"""Frozen convolutions of an image encoder: convolution → batch norm in evaluation → ReLU, as Inception is made of.

PyTorch keeps three tensors of each for backward; here it is the one that the next convolution keeps anyway.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmgan_fast.compat.patching import alike
from dmgan_fast.compat.patching.classes import FastForward, plain_class
from dmgan_fast.compat.patching.guards import is_norm, own_tensors, skippable, takes
from dmgan_fast.compat.patching.rules import Found, Options, Refused

WHAT = "convolution → batch norm → ReLU of an image encoder"


class _NormedReLU(torch.autograd.Function):
    """``relu(norm(z))`` in evaluation, of which the result is kept, not z."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        mean, var = norm.running_mean, norm.running_var
        assert var is not None
        y = F.batch_norm(z, mean, var, norm.weight, norm.bias, False, 0.0, norm.eps).relu_()
        scale = (var + norm.eps).rsqrt()
        ctx.save_for_backward(y, scale if norm.weight is None else scale * norm.weight)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        y, scale = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(grad, y, 0) * scale.to(grad.dtype)[:, None, None], None


def _parts(module: nn.Module) -> tuple[nn.Module, nn.BatchNorm2d] | None:
    """The convolution and the norm of a module that has nothing else; None for any other."""
    children = list(module._modules.values())
    if own_tensors(module) or len(children) != 2 or isinstance(module, nn.Sequential):
        return None
    conv, norm = children
    if not isinstance(conv, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d) or not is_norm(norm):
        return None
    return conv, norm


def _is_frozen(norm: nn.BatchNorm2d) -> bool:
    frozen = not any(p.requires_grad for p in norm._parameters.values() if p is not None)
    return frozen and not norm.training and norm.running_mean is not None


def normed_relu(module: nn.Module, x: Tensor) -> Tensor:
    conv, norm = module._modules.values()
    y: Tensor = _NormedReLU.apply(conv(x), norm)  # type: ignore[no-untyped-call, misc]
    return y


def _run(own: FastForward, self: nn.Module, x: Any) -> Any:
    parts = _parts(self)
    if parts is None or not _is_frozen(parts[1]) or not skippable(parts[1]) or not takes(x):
        return own(self, x)
    return normed_relu(self, x)


def recognise_encoder(module: nn.Module, options: Options) -> Found | Refused | None:
    parts = _parts(module) if options.image_encoder else None
    if parts is None:
        return None
    conv: Any = parts[0]
    geometry = (plain_class(conv), conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.bias is None)
    key = (WHAT, *geometry, parts[1].eps, parts[1].affine, parts[1].track_running_stats)
    reason = alike.remembered(module, key, lambda: _why_not(module, conv, parts[1]))
    return Refused("convolution with batch norm", reason) if reason else Found(WHAT, _run, "encoder", (parts[1],))


def _why_not(module: nn.Module, conv: Any, norm: nn.BatchNorm2d) -> str | None:
    side = 2 * max(conv.kernel_size)
    return alike.why_differ(
        module,
        alike.call,
        normed_relu,
        [alike.random(2, 2, side, side)],
        modes=(False,),
        instead=lambda: {conv: _small(conv), norm: _small_norm(norm)},
    )


def _small(conv: Any) -> nn.Module:
    """A convolution of that geometry from 2 channels to 4."""
    geometry = (conv.kernel_size, conv.stride, conv.padding, conv.dilation)
    small = nn.Conv2d(2, 4, *geometry, bias=conv.bias is not None, dtype=torch.float64)
    small.weight = nn.Parameter(alike.random(*small.weight.shape, seed=7))
    if small.bias is not None:
        nn.init.constant_(small.bias, 0.5)
    return small


def _small_norm(norm: nn.BatchNorm2d) -> nn.Module:
    """A frozen norm of 4 channels."""
    affine = norm.weight is not None
    small = nn.BatchNorm2d(4, norm.eps, norm.momentum, affine, norm.track_running_stats, dtype=torch.float64)
    for seed, name in enumerate(("weight", "bias", "running_mean", "running_var")):
        tensor = getattr(small, name)
        if tensor is not None:
            tensor.data = alike.random(4, seed=seed).abs() + 0.5
    return small.requires_grad_(False)
