"""Channels-last in sixteen bits on a GPU: the layout of cuDNN's fast kernels, so that none changes it on the way."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from dmgan_fast import devices
from dmgan_fast.modules.blocks import UpBlock
from dmgan_fast.modules.generator import Generator, GeneratorOutput, InitialStage
from dmgan_fast.modules.rounding import autocast_dtype, round_together


def layout_of(device_type: str, half: bool) -> torch.memory_format | None:
    """The layout that a step's maps and weights have; None: as they are, as on AMD's GPUs, whose library takes NCHW."""
    kind = devices.planned() or device_type
    return torch.channels_last if kind == "cuda" and half and torch.version.hip is None else None


def lay_out(models: Iterable[nn.Module], layout: torch.memory_format | None) -> None:
    """Lay convolutions' weights out, in place: the parameters stay the same objects.

    Those of up-blocks stay as they are, as ``upsample_conv3x3`` makes other weights of them at every call.
    """
    if layout is None:
        return
    for model in models:
        for module in model.modules():
            if isinstance(module, InitialStage):
                module.memory_format = layout
        spread = {id(block.conv.weight) for block in model.modules() if isinstance(block, UpBlock)}
        for parameter in model.parameters():
            if parameter.dim() == 4 and id(parameter) not in spread:
                parameter.data = parameter.data.contiguous(memory_format=layout)


def rounded(model: nn.Module, dtype: torch.dtype, layout: torch.memory_format) -> nn.Module:
    """A frozen model that shares all but its convolutions and linear maps, whose weights are rounded as autocast would
    round them at every call. Folded convolutions of Inception run in one kernel with their ReLU, where there is one."""
    tensors: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    for each in model.modules():
        if isinstance(each, (nn.Conv2d, nn.Linear)):
            for parameter in each.parameters(recurse=False):
                half = parameter.detach().to(dtype)
                half = half.contiguous(memory_format=layout) if half.dim() == 4 else half
                tensors[id(parameter)] = nn.Parameter(half, requires_grad=False)
    made = copy.deepcopy(model, tensors)
    for each in list(made.modules()):
        for name, child in each.named_children():
            if is_folded(child):
                setattr(each, name, ConvReLU(child.conv))  # type: ignore[arg-type]
    return made


def with_rounded_weights(generator: Generator, *inputs: Any, **options: Any) -> GeneratorOutput:
    """``generator(*inputs, **options)`` under autocast, with its bits: what it would round is rounded before, together.

    But the first convolutions of the stages add parts of their weights up before these are rounded.
    """
    own = dict(generator.named_parameters())
    adds_up = [stage.residual_blocks[0].conv1 for stage in generator.stages]  # type: ignore[union-attr,index]
    names = [
        f"{name}.{parameter}"
        for name, module in generator.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module not in adds_up
        for parameter, _ in module.named_parameters(recurse=False)
    ]
    dtype = autocast_dtype(own[names[0]])
    assert dtype is not None
    rounded = dict(zip(names, round_together([own[name] for name in names], dtype), strict=True))
    output: GeneratorOutput = torch.func.functional_call(generator, rounded, inputs, options)
    return output


def is_folded(module: nn.Module) -> bool:
    """Whether it is a convolution of torchvision's Inception whose batch norm is folded: then a ReLU comes next."""
    return type(module).__name__ == "BasicConv2d" and isinstance(getattr(module, "bn", None), nn.Identity)


class ConvReLU(nn.Module):
    """A frozen convolution, then ReLU, of which the result alone is saved for backward."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv
        geometry = (conv.stride, conv.padding, conv.dilation)
        y: Tensor = _ConvReLU.apply(x.to(conv.weight.dtype), conv.weight, conv.bias, geometry)
        return y


class _ConvReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, geometry: Any) -> Tensor:
        if devices.planned() == "cuda":  # a result without data, of one kernel
            y = torch.ops.aten.convolution(x, weight, None, *geometry, False, [0, 0], 1)
        elif x.is_cuda and _runs_fused(x.device, x.dtype):
            stride, padding, dilation = geometry
            y = torch.cudnn_convolution_relu(x, weight, bias, stride, padding, dilation, 1)
        else:
            y = torch.relu_(torch.ops.aten.convolution(x, weight, bias, *geometry, False, [0, 0], 1))
        ctx.save_for_backward(x, weight, y)
        ctx.geometry = geometry
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, weight, y = ctx.saved_tensors
        grad = torch.ops.aten.threshold_backward(grads[0], y, 0)
        wanted = [True, False, False]
        of_x = torch.ops.aten.convolution_backward(grad, x, weight, None, *ctx.geometry, False, [0, 0], 1, wanted)[0]
        return of_x, None, None, None


@cache
def _runs_fused(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether cuDNN's convolution with ReLU runs on this GPU, and gives what both give one after the other."""
    if torch.version.hip is not None:
        return False
    draw = torch.Generator(device).manual_seed(0)
    sizes = (2, 16, 9, 9), (24, 16, 3, 3), (24,)
    x, weight, bias = (torch.randn(size, generator=draw, device=device).to(dtype) for size in sizes)
    x, weight = (each.contiguous(memory_format=torch.channels_last) for each in (x, weight))
    one = [1, 1]
    try:
        found = torch.cudnn_convolution_relu(x, weight, bias, one, one, one, 1)
    except RuntimeError:
        return False
    expected = torch.relu(torch.ops.aten.convolution(x, weight, bias, one, one, one, False, [0, 0], 1))
    return bool((found - expected).abs().max() <= 0.02 * expected.abs().max())


def widened(regions: Tensor) -> Tensor:
    """Channels-last maps in sixteen bits as float32 in NCHW, which the words loss reads; the gradient goes back as they
    came, each in one pass."""
    wide: Tensor = _Widened.apply(regions)
    return wide


class _Widened(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, regions: Tensor) -> Tensor:
        ctx.dtype = regions.dtype
        wide = torch.promote_types(regions.dtype, torch.float32)
        return regions.to(wide, memory_format=torch.contiguous_format)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0].to(ctx.dtype, memory_format=torch.channels_last)
