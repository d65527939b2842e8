"""Building blocks of the generator: convolutions around batch norm + GLU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dmgan_fast import functional


def conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)


class BatchNormGLU(nn.BatchNorm2d):
    """Batch norm, then a gated linear unit over the channels: ``[B, 2C, H, W]`` → ``[B, C, H, W]``."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return functional.batch_norm_glu(
            x,
            self.weight,
            self.bias,
            self.running_mean,
            self.running_var,
            training=self.training,
            momentum=self.momentum or 0.0,
            eps=self.eps,
        )


class UpBlock(nn.Module):
    """Nearest ×2 → conv3×3 → BN → GLU: ``[B, I, H, W]`` → ``[B, O, 2H, 2W]``."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = conv3x3(in_channels, 2 * out_channels)
        self.norm = BatchNormGLU(2 * out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(functional.upsample_conv3x3(x, self.conv.weight))


class ResidualBlock(nn.Module):
    """conv3×3 → BN → GLU → conv3×3 → BN, + skip; ``[B, C, H, W]`` → the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, 2 * channels)
        self.norm1 = BatchNormGLU(2 * channels)
        self.conv2 = conv3x3(channels, channels)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm2(self.conv2(self.norm1(self.conv1(x))))


class ImageHead(nn.Module):
    """conv3×3 → tanh: features ``[B, C, H, W]`` → picture ``[B, 3, H, W]`` in [-1, 1]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv3x3(channels, 3)

    def forward(self, h: Tensor) -> Tensor:
        return torch.tanh(self.conv(h))


def init_weights(module: nn.Module) -> None:
    """Orthogonal convolutions and linear maps, BN scales N(1, 0.02), as the authors start their GAN."""
    if isinstance(module, (nn.Conv2d, nn.Conv1d, nn.Linear)):
        nn.init.orthogonal_(module.weight)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
