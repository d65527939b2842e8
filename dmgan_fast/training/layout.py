"""The forms that models have on a GPU: in sixteen bits channels-last, the layout of cuDNN's fast kernels, so that none
changes it on the way; an encoder with few kernels."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from dmgan_fast import devices, layouts
from dmgan_fast.modules.blocks import UpBlock
from dmgan_fast.modules.generator import Generator, GeneratorOutput, InitialStage, RefinementStage
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


# Of torchvision's Inception: convolutions 1×1 that read a block's input.
SIBLINGS = {
    "InceptionA": ("branch1x1", "branch5x5_1", "branch3x3dbl_1"),
    "InceptionC": ("branch1x1", "branch7x7_1", "branch7x7dbl_1"),
    "InceptionD": ("branch3x3_1", "branch7x7x3_1"),
    "InceptionE": ("branch1x1", "branch3x3_1", "branch3x3dbl_1"),
}


def judging(model: nn.Module, dtype: torch.dtype | None, layout: torch.memory_format | None) -> nn.Module:
    """A frozen model that shares all but what a GPU runs in another form.

    Weights of convolutions and linear maps are rounded as autocast would round them at every call, for None not at all.
    Folded convolutions of Inception run in one kernel with their ReLU, where there is one; those of one map give its
    gradient in one convolution.
    """
    tensors: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    for each in model.modules():
        if dtype is not None and isinstance(each, (nn.Conv2d, nn.Linear)):
            for parameter in each.parameters(recurse=False):
                half = parameter.detach().to(dtype)
                half = half.contiguous(memory_format=layout) if half.dim() == 4 and layout is not None else half
                tensors[id(parameter)] = nn.Parameter(half, requires_grad=False)
    made = copy.deepcopy(model, tensors)
    for each in list(made.modules()):
        for name, child in each.named_children():
            if is_folded(child):
                setattr(each, name, ConvReLU(child.conv))  # type: ignore[arg-type]
        siblings = SIBLINGS.get(type(each).__name__, ())
        if siblings and all(isinstance(getattr(each, name, None), ConvReLU) for name in siblings):
            together = ConvReLUs([getattr(each, name).conv for name in siblings])
            for place, name in enumerate(siblings):
                setattr(each, name, Sibling(together, place))
    return made


def with_rounded_weights(generator: Generator, *inputs: Any, **options: Any) -> GeneratorOutput:
    """``generator(*inputs, **options)`` under autocast, with its bits: what it would round is rounded at once."""
    weights = {
        f"{name}.{parameter}": value
        for name, module in generator.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
        for parameter, value in module.named_parameters(recurse=False)
    }
    for number, stage in enumerate(generator.stages):
        assert isinstance(stage, RefinementStage)
        first: Any = stage.residual_blocks[0]
        weights[f"stages.{number}.residual_blocks.0.conv1.weight"] = first.weight_for(stage.read_channels)
    dtype = autocast_dtype(next(iter(weights.values())))
    assert dtype is not None
    rounded = dict(zip(weights, round_together(list(weights.values()), dtype), strict=True))
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


class ConvReLUs(nn.Module):
    """Frozen convolutions 1×1 of one map, each with its ReLU. ``of(x, k)`` is the result of number k; the first that is
    asked for runs all."""

    def __init__(self, convs: Sequence[nn.Conv2d]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(convs)
        self.weight = nn.Parameter(torch.cat([conv.weight.detach() for conv in convs]), requires_grad=False)
        for conv, own in zip(convs, self.weight.detach().split([len(conv.weight) for conv in convs]), strict=True):
            conv.weight = nn.Parameter(own, requires_grad=False)
        self.seen: Tensor | None = None
        self.waiting: dict[int, Tensor] = {}  # results of what was seen that were not asked for yet

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        operands = [each for conv in self.convs for each in (conv.weight, conv.bias)]
        results: tuple[Tensor, ...] = _ConvReLUs.apply(x.to(self.weight.dtype), self.weight, *operands)
        return results

    def of(self, x: Tensor, place: int) -> Tensor:
        if self.seen is not x or place not in self.waiting:
            self.seen, self.waiting = x, dict(enumerate(self(x)))
        result = self.waiting.pop(place)
        if not self.waiting:
            self.seen = None
        return result


class Sibling(nn.Module):
    """One of the convolutions of ``ConvReLUs``, in its place in a block."""

    def __init__(self, together: ConvReLUs, place: int) -> None:
        super().__init__()
        self.together, self.place = together, place

    def forward(self, x: Tensor) -> Tensor:
        return self.together.of(x, self.place)


POINTWISE = ([1, 1], [0, 0], [1, 1])  # stride, padding, dilation


class _ConvReLUs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, *operands: Tensor) -> tuple[Tensor, ...]:
        pairs = zip(operands[::2], operands[1::2], strict=True)
        results = tuple(_conv_relu(x, own, bias, POINTWISE) for own, bias in pairs)
        ctx.save_for_backward(x, weight, *results)
        return results

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, weight, *results = ctx.saved_tensors
        grad = layouts.empty_map(results[0], len(weight), *x.shape[2:])
        parts = grad.split([y.shape[1] for y in results], 1)
        for part, of_y, y in zip(parts, grads, results, strict=True):
            torch.ops.aten.threshold_backward.grad_input(of_y, y, 0, grad_input=part)
        return _of_input(grad, x, weight, POINTWISE), *[None] * (1 + 2 * len(results))


class _ConvReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, geometry: Any) -> Tensor:
        y = _conv_relu(x, weight, bias, geometry)
        ctx.save_for_backward(x, weight, y)
        ctx.geometry = geometry
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, weight, y = ctx.saved_tensors
        grad = torch.ops.aten.threshold_backward(grads[0], y, 0)
        return _of_input(grad, x, weight, ctx.geometry), None, None, None


def _conv_relu(x: Tensor, weight: Tensor, bias: Tensor, geometry: Any) -> Tensor:
    if devices.planned() == "cuda":  # a result without data, of one kernel
        made: Tensor = torch.ops.aten.convolution(x, weight, None, *geometry, False, [0, 0], 1)
        return made
    if x.is_cuda and _runs_fused(x.device, x.dtype, layouts.memory_format(x)):
        stride, padding, dilation = geometry
        return torch.cudnn_convolution_relu(x, weight, bias, stride, padding, dilation, 1)
    return torch.relu_(torch.ops.aten.convolution(x, weight, bias, *geometry, False, [0, 0], 1))


def _of_input(grad: Tensor, x: Tensor, weight: Tensor, geometry: Any) -> Tensor:
    """The gradient of a convolution's input."""
    wanted = [True, False, False]
    found = torch.ops.aten.convolution_backward(grad, x, weight, None, *geometry, False, [0, 0], 1, wanted)
    of_x: Tensor = found[0]
    return of_x


@cache
def _runs_fused(device: torch.device, dtype: torch.dtype, layout: torch.memory_format) -> bool:
    """Whether cuDNN's convolution with ReLU runs on this GPU, and gives what both give one after the other."""
    if torch.version.hip is not None:
        return False
    draw = torch.Generator(device).manual_seed(0)
    sizes = (2, 16, 9, 9), (24, 16, 3, 3), (24,)
    x, weight, bias = (torch.randn(size, generator=draw, device=device).to(dtype) for size in sizes)
    x, weight = (each.contiguous(memory_format=layout) for each in (x, weight))
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
