"""Discriminators: one per resolution, with a conditional and an unconditional head (logits, before the sigmoid)."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmgan_fast.config import config_dataclass, require_positive
from dmgan_fast.contract import require_fits, require_tensors
from dmgan_fast.errors import InputError, require
from dmgan_fast.layouts import is_channels_last, memory_format
from dmgan_fast.modules.blocks import init_weights, share_batch_statistics
from dmgan_fast.modules.pretrained import PretrainedModel
from dmgan_fast.modules.spectral_norm import HeldConv2d, SpectralNormConv2d
from dmgan_fast.parallel import RowSplit
from dmgan_fast.parallel.rows import FIRST, halved

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

MIN_SIDE = 64
FEATURE_SIDE = 4
LEAK = 0.2


@config_dataclass
class DiscriminatorConfig:
    """Settings of a discriminator; the defaults are the paper's. ``image_size``: a power of two, 64 or more.

    ``batch_norm``: AttnGAN's discriminator, which has batch norms in place of spectral norm and of biases.
    """

    image_size: int
    base_channels: int = 32
    sentence_channels: int = 256
    spectral_norm: Literal["paper", "official", "none"] = "paper"
    batch_norm: bool = False

    def __post_init__(self) -> None:
        if self.image_size < MIN_SIDE or self.image_size & (self.image_size - 1):
            raise InputError(f"image_size must be a power of two of at least {MIN_SIDE}, got {self.image_size}")
        require_positive(self, "base_channels", "sentence_channels")
        if self.batch_norm and self.spectral_norm != "none":
            raise InputError(f"batch_norm goes with spectral_norm='none' only, got {self.spectral_norm!r}")

    @property
    def needs_whole_batches(self) -> bool:
        """Whether a forward depends on the whole batch, or changes what the next one computes."""
        return self.batch_norm or self.spectral_norm == "official"


class Discriminator(PretrainedModel):
    """Judges images of one resolution, with or without their sentence.

    Stride-2 4×4 convolutions halve the resolution down to 4, doubling the channels; then 3×3 convolutions bring the
    channels back to ``8 * base_channels``.
    """

    config_class = DiscriminatorConfig
    rows: RowSplit | None = None  # see split_rows

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        base = config.base_channels
        halvings = (config.image_size // FEATURE_SIDE).bit_length() - 1
        widths = [3] + [base << k for k in range(halvings)]
        down = [_conv(config, i, o, 4, stride=2) for i, o in pairwise(widths)]
        if config.batch_norm:
            down[0] = nn.Conv2d(3, base, 4, stride=2, padding=1, bias=False)  # sees images as they are
        self.down = nn.ModuleList(down)
        narrowing = widths[-1:3:-1]  # back to the width of the fourth convolution
        self.narrow = nn.ModuleList(_conv(config, i, i // 2, 3) for i in narrowing if i > 8 * base)
        features = 8 * base
        self.joint = _conv(config, features + config.sentence_channels, features, 3)
        self.conditional_head = HeldConv2d(features, 1, FEATURE_SIDE)
        self.unconditional_head = HeldConv2d(features, 1, FEATURE_SIDE)
        self.apply(init_weights)

    def features(self, images: Tensor) -> Tensor:
        """Images ``[B, 3, S, S]`` in [-1, 1] → ``[B, 8 * base_channels, 4, 4]``."""
        side, weight = self.config.image_size, self.conditional_head.weight
        height = side if self.rows is None else self.rows.count(side)
        require_tensors("Discriminator", images=images)
        require(
            images.dim() == 4 and tuple(images.shape[1:]) == (3, height, side),
            lambda: f"Discriminator: images must be [B, 3, {height}, {side}], got {list(images.shape)}",
        )
        require_fits("Discriminator", weight, images=images)
        x, first = images, self._halvings_of_rows
        if self.rows is not None:
            for conv in self.down[:first]:
                x = F.leaky_relu(_halve_rows(conv, x, self.rows.group), LEAK)
            x = self.rows.whole(x)
        for conv in (*self.down[first:], *self.narrow):
            x = F.leaky_relu(conv(x), LEAK)
        return x

    @property
    def _halvings_of_rows(self) -> int:
        """How many convolutions run on the rows of a process: until 64 are left of the image."""
        return 0 if self.rows is None else (self.config.image_size // FIRST).bit_length() - 1

    def split_rows(self, rows: RowSplit, everyone: ProcessGroup) -> None:
        """Judge this process's rows of each image from now on, the next process those that follow.

        Convolutions halve the rows down to those of a map of 64²; then each process gathers whole maps and computes
        what the others compute too. So each differentiates its part of the loss: ``Share.of_loss``. Gradients of
        parameters add up over ``everyone``, who share a batch's statistics.
        """
        self.rows = rows
        share_batch_statistics(self, rows.peers if rows.peers.size() > 1 else None)
        share_batch_statistics(self.down[: self._halvings_of_rows], everyone)

    def logits(self, features: Tensor, sentence: Tensor | None = None) -> Tensor:
        """Features ``[B, 8 * base_channels, 4, 4]``, and for the conditional head the sentence ``[B, D]``, or what
        ``spread`` made of it, → ``[B]``."""
        if sentence is None:
            return _head(self.unconditional_head, features)
        require_tensors("Discriminator", sentence=sentence)
        require(
            sentence.device == features.device,
            lambda: f"Discriminator: sentence is on {sentence.device}, the features are on {features.device}",
        )
        require(
            tuple(sentence.shape[:2]) == (features.shape[0], self.config.sentence_channels)
            and tuple(sentence.shape[2:]) in ((), tuple(features.shape[2:])),
            lambda: (
                f"Discriminator: sentence must be [{features.shape[0]}, {self.config.sentence_channels}], "
                f"got {list(sentence.shape)}"
            ),
        )
        everywhere = spread(sentence, features.dtype, memory_format(features)) if sentence.dim() == 2 else sentence
        joint = F.leaky_relu(self.joint(torch.cat((features, everywhere), 1)), LEAK)
        return _head(self.conditional_head, joint)

    def forward(self, images: Tensor, sentence: Tensor | None = None) -> Tensor:
        """Logits ``[B]`` of images ``[B, 3, S, S]``; conditional if a sentence ``[B, D]`` is given."""
        return self.logits(self.features(images), sentence)


def spread(sentence: Tensor, dtype: torch.dtype, layout: torch.memory_format) -> Tensor:
    """``[B, D]`` at every place of features ``[B, D, 4, 4]``, which several discriminators may have in common."""
    everywhere = sentence.to(dtype)[:, :, None, None].expand(-1, -1, FEATURE_SIDE, FEATURE_SIDE)
    return everywhere.contiguous(memory_format=layout) if layout is torch.channels_last else everywhere


def _halve_rows(conv: nn.Module, x: Tensor, row_group: ProcessGroup) -> Tensor:
    """``conv``, perhaps with a norm after it, of some rows of an image."""
    convolution, *norms = conv if isinstance(conv, nn.Sequential) else (conv,)
    y = halved(convolution, x, row_group)
    for norm in norms:
        y = norm(y)
    return y


def _head(head: HeldConv2d, features: Tensor) -> Tensor:
    """``head(features).flatten()``: a convolution as large as its map is a dot product, which starts far sooner."""
    weight, bias = head.operands
    if is_channels_last(features):  # both as they lie in memory
        features, weight = features.permute(0, 2, 3, 1), weight.permute(0, 2, 3, 1)
    return F.linear(features.flatten(1), weight.flatten(1), bias).flatten()


def _conv(config: DiscriminatorConfig, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Module:
    """A convolution and its norm."""
    if config.batch_norm:
        conv = nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=1, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(out_channels))
    mode = config.spectral_norm
    return SpectralNormConv2d(in_channels, out_channels, kernel, stride=stride, padding=1, mode=mode)
