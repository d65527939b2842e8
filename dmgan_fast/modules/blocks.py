"""Building blocks of the generator: convolutions around batch norm + GLU."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dmgan_fast import functional
from dmgan_fast.errors import require
from dmgan_fast.modules.rematerialise import rematerialise
from dmgan_fast.ops.running import count_batch
from dmgan_fast.parallel.rows import mean_over_all, with_halo
from dmgan_fast.reference.batch_norm_glu import BatchNorm, batch_norm

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def conv3x3(in_channels: int, out_channels: int, **kind: Any) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False, **kind)


class _BatchNorm(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` on the fused op.

    ``process_group``: share the batch's statistics with its processes. ``share_with_all``: with those of the default
    group, once there is one. ``row_group``: see ``split_rows``.
    """

    process_group: ProcessGroup | None = None
    share_with_all = False
    row_group: ProcessGroup | None = None

    @property
    def sharing(self) -> ProcessGroup | None:
        """Whom to share with now."""
        return _sharing(self)

    def apply_to(self, op: Callable[..., Any], *inputs: Tensor, **options: Any) -> Any:
        """``op`` of ``functional`` with this norm's parameters and running statistics after ``inputs``."""
        return apply_norm(self, op, *inputs, process_group=self.sharing if self.training else None, **options)

    @property
    def folds(self) -> bool:
        """Whether a convolution and this norm after it are one pass: nobody differentiates or looks between them."""
        learns = self.training or self.running_mean is None or torch.is_grad_enabled()
        return not (learns or self._forward_hooks or self._forward_pre_hooks or self.row_group is not None)

    def after_conv(self, x: Tensor, conv_weight: Tensor, *skip: Tensor, upsample: bool = False) -> Tensor:
        """This norm, + skip if it takes one, of conv3×3 of x, or of x nearest ×2."""
        if self.folds:
            numbers: Any = (self.weight, self.bias, self.running_mean, self.running_var)
            return functional.folded_conv3x3(x, conv_weight, *numbers, *skip, upsample=upsample, eps=self.eps)
        op = functional.upsample_conv3x3 if upsample else functional.conv3x3
        y: Tensor = self(_convolve(op, x, conv_weight, self.row_group, 2 if upsample else 1), *skip)
        return y


def _sharing(norm: _BatchNorm | SharedBatchNorm2d) -> ProcessGroup | None:
    if norm.process_group is not None or not norm.share_with_all:
        return norm.process_group
    from torch import distributed

    return distributed.group.WORLD if distributed.is_available() and distributed.is_initialized() else None


def apply_norm(norm: nn.modules.batchnorm._BatchNorm, op: Callable[..., Any], *inputs: Tensor, **options: Any) -> Any:
    """``op`` of ``functional`` with the parameters and running statistics of ``norm``, which counts the batch."""
    momentum = norm.momentum
    if norm.training and norm.num_batches_tracked is not None:
        if momentum is not None:
            count_batch(norm.num_batches_tracked)
        else:  # cumulative average, as nn.BatchNorm2d has it
            norm.num_batches_tracked.add_(1)
            momentum = 1.0 / float(norm.num_batches_tracked)
    return op(
        *inputs,
        norm.weight,
        norm.bias,
        norm.running_mean,
        norm.running_var,
        training=norm.training or norm.running_mean is None,
        momentum=momentum or 0.0,
        eps=norm.eps,
        **options,
    )


class BatchNormGLU(_BatchNorm):
    """Batch norm, then a gated linear unit over the channels: ``[B, 2C, H, W]`` → ``[B, C, H, W]``.

    Made as ``nn.BatchNorm2d(2 * C)`` is.
    """

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.apply_to(functional.batch_norm_glu, x)
        return y

    def with_mean(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The result and its mean over pixels ``[B, C]``."""
        y, mean = self.apply_to(functional.batch_norm_glu, x, return_mean=True)
        return y, mean


class BatchNormSkip(_BatchNorm):
    """Batch norm, + skip; ``skip`` of K channels stands for as many copies of it as x has channels.

    Made as ``nn.BatchNorm2d(C)`` is.
    """

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:  # type: ignore[override]
        y: Tensor = self.apply_to(functional.batch_norm_glu, x, skip=skip)
        return y


class FusedNorms(nn.Module):
    """A module with fused batch norms, which stay when PyTorch swaps batch norms for its own kind.

    ``nn.SyncBatchNorm.convert_sync_batchnorm`` puts plain norms in their place, without GLU or skip. Ours can share
    statistics themselves, so they take that over and stay.
    """

    def add_module(self, name: str, module: nn.Module | None) -> None:
        own = self._modules.get(name)
        if isinstance(own, _BatchNorm) and isinstance(module, nn.SyncBatchNorm):
            own.process_group, own.share_with_all = module.process_group, module.process_group is None
            module = own
        super().add_module(name, module)


class SharedBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` over the batches of all processes, on CPUs too, where ``nn.SyncBatchNorm`` is not."""

    process_group: ProcessGroup | None = None
    share_with_all = True

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = apply_norm(self, _plain_batch_norm, x, process_group=_sharing(self) if self.training else None)
        return y


def _plain_batch_norm(x: Tensor, *norm: Any, **options: Any) -> Tensor:
    return batch_norm(x, BatchNorm(*norm, **options))


def share_batch_statistics(module: nn.Module, process_group: ProcessGroup | None) -> None:
    """Let every batch norm in ``module`` take statistics over all processes of ``process_group`` in training.

    Fused ones and, unless it is None, ``nn.BatchNorm2d``, which become norms of a kind of their own with the same
    parameters and buffers.
    """
    from torch import distributed

    of_all = process_group is not None and process_group is distributed.group.WORLD
    for holder in list(module.modules()):
        for name, child in list(holder.named_children()):
            if process_group is not None and type(child) is nn.BatchNorm2d:
                shared = SharedBatchNorm2d.__new__(SharedBatchNorm2d)
                shared.__dict__.update(child.__dict__)  # the very tensors, which optimisers hold
                setattr(holder, name, shared)
    for each in module.modules():
        if isinstance(each, (_BatchNorm, SharedBatchNorm2d)):
            # The default group goes by that name: it is gone when the processes part.
            each.process_group, each.share_with_all = None if of_all else process_group, of_all


def split_rows(module: nn.Module, row_group: ProcessGroup, everyone: ProcessGroup) -> None:
    """Let the blocks and image heads in ``module`` take some rows of each image, the next process the rows that follow.

    Results are the rows of the whole image's: convolutions see the neighbours' rows, batch norms and means all rows.
    Gradients of parameters add up over processes. Blocks split so do not run in tiles.

    Args:
        row_group: processes that hold the same images.
        everyone: those that share a batch's statistics, which may hold more images.
    """
    for each in module.modules():
        if isinstance(each, (_BatchNorm, ImageHead)):
            each.row_group = row_group
    share_batch_statistics(module, everyone)


TILES_OF_ROWS = "a block whose rows are split over processes (split_rows) does not run in tiles; set tile_rows to None"


def _convolve(
    op: Callable[..., Tensor], x: Tensor, weight: Tensor, row_group: ProcessGroup | None, scale: int = 1
) -> Tensor:
    """``op(x, weight)``, a convolution 3×3 ``scale`` times as high as x, which may be some rows of an image."""
    if row_group is None:
        return op(x, weight)
    return op(with_halo(x, row_group), weight)[:, :, scale:-scale]


class UpBlock(FusedNorms):
    """Nearest ×2 → conv3×3 → BN → GLU: ``[B, I, H, W]`` → ``[B, O, 2H, 2W]``.

    ``tile_rows``: compute in tiles of so many rows (``functional.tiled_glu``); None: all at once. ``recompute_glu``:
    for an image, keep the GLU's input only, not its result.
    """

    tile_rows: int | None = None
    recompute_glu = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.conv = conv3x3(in_channels, 2 * out_channels, device=device, dtype=dtype)
        self.norm = BatchNormGLU(2 * out_channels, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """As PyTorch starts a convolution and a batch norm."""
        self.conv.reset_parameters()
        self.norm.reset_parameters()

    def extra_repr(self) -> str:
        return "" if self.tile_rows is None else f"tile_rows={self.tile_rows}"

    def forward(self, x: Tensor) -> Tensor:
        return self.with_mean(x)[0] if self.tile_rows else self.norm.after_conv(x, self.conv.weight, upsample=True)

    def with_mean(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The result and its mean over pixels ``[B, O]``."""
        if self.tile_rows:
            y, mean = self._tiled(x, return_mean=True)
            return y, mean
        if self.norm.folds:
            y = self(x)
            mean = y.mean((2, 3))
        else:
            z = _convolve(functional.upsample_conv3x3, x, self.conv.weight, self.norm.row_group, 2)
            y, mean = self.norm.with_mean(z)
        return y, mean if self.norm.row_group is None else mean_over_all(mean, y.shape[2], self.norm.row_group)

    def to_image(self, x: Tensor, head: ImageHead) -> Tensor:
        """``head`` of the result: an image ``[B, 3, 2H, 2W]``."""
        if self.tile_rows:
            image: Tensor = self._tiled(x, head_weight=head.conv.weight)
            return image
        if self.recompute_glu:  # tanh keeps its result, so it stays outside: the convolution is then not run again
            z = _convolve(functional.upsample_conv3x3, x, self.conv.weight, self.norm.row_group, 2)
            return torch.tanh(rematerialise(lambda z: head.logits(self.norm(z)), z, modules=(self.norm,)))
        return head(self(x))

    def _tiled(self, x: Tensor, **options: Any) -> Any:
        require(self.norm.row_group is None, TILES_OF_ROWS)
        op = functional.tiled_glu
        return self.norm.apply_to(op, x, self.conv.weight, upsample=True, rows=self.tile_rows, **options)


class ResidualBlock(FusedNorms):
    """conv3×3 → BN → GLU → conv3×3 → BN, + skip; ``[B, C, H, W]`` → the same.

    An input of C / 2 channels stands for ``cat(x, x)``, which never exists: ``conv(cat(x, x), W)`` is
    ``conv(x, W[:, :C/2] + W[:, C/2:])``.

    ``tile_rows``, ``recompute_glu``: as in ``UpBlock``, for the first GLU.
    """

    tile_rows: int | None = None
    recompute_glu = False

    def __init__(
        self, channels: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, 2 * channels, device=device, dtype=dtype)
        self.norm1 = BatchNormGLU(2 * channels, device=device, dtype=dtype)
        self.conv2 = conv3x3(channels, channels, device=device, dtype=dtype)
        self.norm2 = BatchNormSkip(channels, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """As PyTorch starts convolutions and batch norms."""
        for part in (self.conv1, self.norm1, self.conv2, self.norm2):
            part.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight_for(x.shape[1])
        if self.tile_rows:
            require(self.norm1.row_group is None, TILES_OF_ROWS)
            h = self.norm1.apply_to(functional.tiled_glu, x, weight, rows=self.tile_rows)
            y: Tensor = self.norm2.apply_to(functional.tiled_skip, h, self.conv2.weight, skip=x, rows=self.tile_rows)
            return y
        if self.recompute_glu:  # PyTorch's own convolution is not run again: what it keeps is known before it starts
            z = _convolve(functional.conv3x3, x, weight, self.norm1.row_group)
            return self.norm2(rematerialise(self._second_half, z, modules=(self.norm1,)), x)
        return self.norm2.after_conv(self.norm1.after_conv(x, weight), self.conv2.weight, x)

    def weight_for(self, channels: int) -> Tensor:
        """Of the first convolution, for an input of so many channels, which may stand for copies of itself."""
        weight = self.conv1.weight
        if channels == weight.shape[1]:
            return weight
        return reduce(torch.add, weight.split(channels, 1))  # which keeps the weight's layout, as a sum does not

    def _second_half(self, z: Tensor) -> Tensor:
        return _convolve(functional.conv3x3, self.norm1(z), self.conv2.weight, self.norm2.row_group)


class ImageHead(nn.Module):
    """conv3×3 → tanh: features ``[B, C, H, W]`` → image ``[B, 3, H, W]`` in [-1, 1]."""

    row_group: ProcessGroup | None = None

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv3x3(channels, 3)

    def forward(self, h: Tensor) -> Tensor:
        return torch.tanh(self.logits(h))

    def logits(self, h: Tensor) -> Tensor:
        """The image before tanh."""
        return _convolve(functional.conv3x3, h, self.conv.weight, self.row_group)


def init_weights(module: nn.Module) -> None:
    """Orthogonal convolutions and linear maps, BN scales N(1, 0.02), as the authors start their GAN."""
    if isinstance(module, (nn.Conv2d, nn.Conv1d, nn.Linear)):
        nn.init.orthogonal_(module.weight)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
