"""Image encoder (DAMSM): image → region features and one code.

``"inception"`` is the paper's: Inception-v3 to Mixed_6e for the regions, pooled Mixed_7c for the code.
``"compact"`` is a small convolutional encoder for small images, trained from scratch with the text encoder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmgan_fast.config import config_dataclass, renamed, require_positive
from dmgan_fast.contract import require_fits, require_tensors
from dmgan_fast.errors import CheckpointError, InputError, require
from dmgan_fast.foreign import read_torch
from dmgan_fast.modules.pretrained import PretrainedModel, load_weights

INCEPTION_SIZE = 299
INCEPTION_FILE = "inception_v3_google-0cc3c7bd.pth"
INCEPTION_URL = f"https://download.pytorch.org/models/{INCEPTION_FILE}"
REGION_CHANNELS = 768  # Mixed_6e
CODE_CHANNELS = 2048  # Mixed_7c


@config_dataclass
class ImageEncoderConfig:
    """``channels``: ``D``, as the text encoder's. ``image_size``, ``base_channels``: of the compact encoder."""

    kind: Literal["inception", "compact"] = "inception"
    channels: int = 256
    image_size: int = renamed(128, "image_size", "side")
    base_channels: int = 32

    def __post_init__(self) -> None:
        require_positive(self, "channels", "base_channels")
        if self.image_size < 32 or self.image_size % 16:
            raise InputError(f"image_size must be a multiple of 16, 32 or more, got {self.image_size}")


class ImageEncoder(PretrainedModel):
    """Images ``[B, 3, H, W]`` in [-1, 1] of any resolution → regions ``[B, D, h, w]`` and code ``[B, D]``."""

    config_class = ImageEncoderConfig

    def __init__(self, config: ImageEncoderConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or ImageEncoderConfig()
        self.trunk: InceptionTrunk | CompactTrunk
        if config.kind == "inception":
            self.trunk = InceptionTrunk().requires_grad_(False)  # the authors train the two heads only
            region_channels, code_channels = REGION_CHANNELS, CODE_CHANNELS
        else:
            self.trunk = CompactTrunk(config.base_channels)
            region_channels, code_channels = 4 * config.base_channels, 8 * config.base_channels
        self.region_head = nn.Conv2d(region_channels, config.channels, 1, bias=False)
        self.code_head = nn.Linear(code_channels, config.channels)
        for head in (self.region_head, self.code_head):
            nn.init.uniform_(head.weight, -0.1, 0.1)
        if config.kind == "compact":
            nn.init.orthogonal_(self.region_head.weight)
            nn.init.orthogonal_(self.code_head.weight)

    @property
    def input_size(self) -> int:
        """Resolution to which images are resized before the first convolution."""
        return INCEPTION_SIZE if self.config.kind == "inception" else self.config.image_size

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        require_tensors("ImageEncoder", images=images)
        require(
            images.dim() == 4 and images.shape[1] == 3,
            lambda: f"ImageEncoder: images must be [B, 3, H, W], got {list(images.shape)}",
        )
        require_fits("ImageEncoder", self.code_head.weight, images=images)
        size = self.input_size
        if tuple(images.shape[2:]) != (size, size):
            images = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=True)
        regions, pooled = self.trunk(images)
        return self.region_head(regions), self.code_head(pooled)

    def load_inception(self, path: str | os.PathLike[str] | None = None) -> None:
        """Load ImageNet weights into the trunk: from ``path`` or from torch's cache (never from the network).

        Raises:
            CheckpointError: if the file is missing (says what to fetch and where to put it) or does not fit.
        """
        require(self.config.kind == "inception", "load_inception: this encoder is compact; it has no Inception trunk")
        file = Path(path) if path is not None else Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
        if not file.is_file():
            raise CheckpointError(
                f"Inception-v3 weights not found at {file}; fetch {INCEPTION_URL} and put it there, or give its path"
            )
        tensors = read_torch(file, "readable checkpoint")
        assert isinstance(self.trunk, InceptionTrunk)
        self.trunk.load_imagenet(tensors, where=str(file))


class InceptionTrunk(nn.Module):
    """torchvision's Inception-v3 without classifiers: ``[B, 3, 299, 299]`` → ``[B, 768, 17, 17]``, ``[B, 2048]``."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import inception_v3

        whole = inception_v3(weights=None, aux_logits=True, transform_input=False, init_weights=False)
        for name, child in whole.named_children():
            if name not in ("AuxLogits", "avgpool", "dropout", "fc"):
                self.add_module(name, child)

    def load_imagenet(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Load torchvision's state dict, classifiers left out; ``CheckpointError`` if it does not fit."""
        own = self.state_dict()
        kept = {key: value for key, value in tensors.items() if not key.startswith(("fc.", "AuxLogits."))}
        kept |= {key: own[key] for key in own if key.endswith("num_batches_tracked") and key not in kept}
        load_weights(self, kept, where)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        regions = x
        for name, child in self.named_children():
            x = child(x)
            if name == "Mixed_6e":
                regions = x
        return regions, x.mean((2, 3))


class CompactTrunk(nn.Module):
    """Four halvings: ``[B, 3, S, S]`` → regions ``[B, 4c, S/8, S/8]`` and pooled ``[B, 8c]``."""

    def __init__(self, base_channels: int) -> None:
        super().__init__()
        widths = [3] + [base_channels << k for k in range(4)]
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(i, o, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(o),
                nn.LeakyReLU(0.2),
                nn.Conv2d(o, o, 3, padding=1, bias=False),
                nn.BatchNorm2d(o),
                nn.LeakyReLU(0.2),
            )
            for i, o in pairwise(widths)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for block in self.blocks[:3]:
            x = block(x)
        return x, self.blocks[3](x).mean((2, 3))
