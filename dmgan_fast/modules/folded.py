"""Models without batch norms, for generating and judging: z = conv(x, W rstd weight) + (bias - mean rstd weight).

Every block of a generator is then a standard convolution with a bias and one pass for the GLU; the 4×4 kernel of an
up-block (``aten.upsample_conv3x3``) and the sum over ``cat(h, h)`` are made once instead of at every call. On CPUs the
weights are channels-last, and PyTorch's convolutions then keep the features so.
"""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from dmgan_fast.aten.upsample_conv3x3 import spread
from dmgan_fast.modules.blocks import ImageHead, ResidualBlock, UpBlock
from dmgan_fast.modules.generator import Generator
from dmgan_fast.modules.image_encoder import ImageEncoder
from dmgan_fast.modules.memory import DynamicMemory

Model = TypeVar("Model", Generator, ImageEncoder)


def fold(model: Model) -> Model:
    """A frozen copy in evaluation mode whose batch norms are folded into the convolutions before them.

    The same function up to rounding, with no batch norms to train or to save. A generator is then made of plain
    convolutions, so that it also exports, with nothing to choose in ``set_checkpointing``. Of an image encoder a
    convolution keeps one tensor for backward instead of three; on a CPU it runs in channels-last, which its poolings
    and 1×1 convolutions take a fifth less time in.
    """
    return _fold_generator(model) if isinstance(model, Generator) else _fold_encoder(model)


class FoldedUpBlock(nn.Module):
    """``UpBlock`` in evaluation: a transposed convolution with W4, then GLU; ``[B, I, H, W]`` → ``[B, O, 2H, 2W]``."""

    def __init__(self, block: UpBlock) -> None:
        super().__init__()
        weight, bias = _fold(block.conv.weight, block.norm)
        self.conv = nn.ConvTranspose2d(weight.shape[1], weight.shape[0], 4, stride=2, padding=1, device="meta")
        _assign(self.conv, spread(weight), bias, like=block.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.glu(self.conv(x), dim=1)

    def with_mean(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The result and its mean over pixels ``[B, O]``."""
        y = self(x)
        return y, y.mean((2, 3))

    def to_image(self, x: Tensor, head: nn.Module) -> Tensor:
        """``head`` of the result: an image ``[B, 3, 2H, 2W]``."""
        image: Tensor = head(self(x))
        return image


class FoldedResidualBlock(nn.Module):
    """``ResidualBlock`` in evaluation. ``halved``: it is given C / 2 channels, which stand for ``cat(x, x)``."""

    conv1: nn.Conv2d
    conv2: nn.Conv2d

    def __init__(self, block: ResidualBlock, halved: bool) -> None:
        super().__init__()
        for name, conv, norm in (("conv1", block.conv1, block.norm1), ("conv2", block.conv2, block.norm2)):
            weight, bias = _fold(conv.weight, norm)
            if halved and name == "conv1":
                weight = weight.unflatten(1, (2, -1)).sum(1)
            folded = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1, device="meta")
            _assign(folded, weight, bias, like=conv.weight)
            self.add_module(name, folded)

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.conv2(F.glu(self.conv1(x), dim=1))
        return (z.unflatten(1, (-1, x.shape[1])) + x[:, None]).flatten(1, 2)


@torch.no_grad()
def _fold_generator(generator: Generator) -> Generator:
    folded = copy.deepcopy(generator).eval()
    folded.set_checkpointing("none")
    first: Any = folded.initial_stage
    old = first.projection.weight
    first.projection = nn.Linear(old.shape[1], old.shape[0], device="meta")
    _assign(first.projection, *_fold(old, first.norm), like=old)
    first.norm = nn.GLU(dim=1)
    first.up_blocks = nn.ModuleList(FoldedUpBlock(block) for block in first.up_blocks)
    stages: Any = folded.stages
    for stage in stages:
        blends = isinstance(stage.memory, DynamicMemory) and stage.memory.response_gate
        halved = [blends and k == 0 for k in range(len(stage.residual_blocks))]
        stage.residual_blocks = nn.ModuleList(map(FoldedResidualBlock, stage.residual_blocks, halved))
        stage.up_block = FoldedUpBlock(stage.up_block)
    folded.image_heads = nn.ModuleList(_plain(head) for head in folded.image_heads)  # type: ignore[arg-type]
    return folded.requires_grad_(False)


def _fold_encoder(given: ImageEncoder) -> ImageEncoder:
    # Cloned here, as deepcopy knows no tensors without data, which the planner uses.
    tensors: dict[int, Any] = {id(p): nn.Parameter(p.detach().clone()) for p in given.parameters()}
    tensors |= {id(b): b.clone() for b in given.buffers()}
    encoder = copy.deepcopy(given, tensors).eval().requires_grad_(False)
    for holder in list(encoder.trunk.modules()):
        children = list(holder.named_children())
        for (_, conv), (name, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                assert norm.running_mean is not None
                assert norm.running_var is not None
                statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
                conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics)
                conv.requires_grad_(False)
                setattr(holder, name, nn.Identity())
        for _, child in children:
            if isinstance(child, nn.LeakyReLU):
                child.inplace = True
    for conv in encoder.modules():
        if isinstance(conv, nn.Conv2d):  # ``to`` can't lay out tensors without data
            conv.weight = nn.Parameter(_laid_out(conv.weight), requires_grad=False)
    return encoder


def _plain(head: ImageHead) -> nn.Sequential:
    """The head on PyTorch's own convolution."""
    head.conv.weight = nn.Parameter(_laid_out(head.conv.weight))
    return nn.Sequential(head.conv, nn.Tanh())


def _fold(weight: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight ``[O, ...]`` and bias ``[O]``, in float64, of a linear map without bias and the batch norm after it."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() * torch.rsqrt(norm.running_var.double() + norm.eps)
    return (weight.double().transpose(0, -1) * scale).transpose(0, -1), norm.bias - norm.running_mean * scale


def _laid_out(weight: Tensor) -> Tensor:
    """On a CPU, where it was measured, channels-last."""
    if weight.dim() == 4 and weight.device.type == "cpu":
        return weight.contiguous(memory_format=torch.channels_last)
    return weight.contiguous()


def _assign(module: nn.Module, weight: Tensor, bias: Tensor, *, like: Tensor) -> None:
    """Give a module without data its weight and bias, rounded to the dtype of ``like`` once."""
    module.weight = nn.Parameter(_laid_out(weight.to(like.dtype)))
    module.bias = nn.Parameter(bias.to(like.dtype))
