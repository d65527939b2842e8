"""Forms of a convolution in which cuDNN may be faster: another layout inside, and kernels that it chose by trial."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., Tensor]


def channels_last_inside(function: Function) -> Function:
    """``function(x, weight)`` on copies in channels-last."""

    def run(x: Tensor, weight: Tensor) -> Tensor:
        layout = torch.channels_last
        return function(x.contiguous(memory_format=layout), weight.contiguous(memory_format=layout))

    return run


def by_trial(x: Tensor, weight: Tensor, *, stride: int = 1, transposed: bool = False) -> Tensor:
    """A convolution with padding 1 whose kernels cuDNN chooses by trial, forward and backward, at the first call of
    each shape."""
    y: Tensor = _ByTrial.apply(x, weight, ([stride] * 2, [1, 1], [1, 1], transposed, [0, 0], 1))
    return y


def forms(eager: Function, layout: str, stride: int = 1) -> dict[str, Function]:
    """Rivals on a GPU of a convolution ``eager(x, weight)`` with padding 1, by name."""
    found: dict[str, Function] = {"cuDNN, by trial": partial(by_trial, stride=stride)}
    if layout == "NCHW":
        found["cuDNN, channels-last inside"] = channels_last_inside(eager)
    return found


class _ByTrial(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, geometry: Any) -> Any:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        with _trials():
            return torch.ops.aten.convolution(x, weight, None, *geometry)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        wanted = [*ctx.needs_input_grad[:2], False]
        with _trials():
            found = torch.ops.aten.convolution_backward(*grads, *ctx.saved_tensors, None, *ctx.geometry, wanted)
        return *found[:2], None


@contextmanager
def _trials() -> Iterator[None]:
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
