"""Generate images of any resolution in a fixed small memory: window by window, with exact halos.

In evaluation a pixel depends on a few neighbours, on the words, and on one mean over each stage's features. So a window
of the image needs a window of the features below it, a little larger, and so on down to the first stage. Features up
to ``KEPT`` bytes are kept; those of higher resolutions are recomputed for every window above them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from dmgan_fast.errors import require
from dmgan_fast.modules.generator import Generator, GeneratorOutput, RefinementStage

KEPT = 64 << 20  # bytes of one stage's features: 512² at 64 channels in float32
MIN_TILE = 64


class Window(NamedTuple):
    """Rows ``top ... bottom - 1`` and columns ``left ... right - 1`` of a square of ``size``."""

    top: int
    bottom: int
    left: int
    right: int
    size: int

    def of(self, image: Tensor, within: Window | None = None) -> Tensor:
        """A view of the image, or of its part ``within``."""
        down, right = (within.top, within.left) if within else (0, 0)
        return image[:, :, self.top - down : self.bottom - down, self.left - right : self.right - right]

    def grown(self, by: int) -> Window:
        """With ``by`` more pixels all around, as far as there are."""
        first, last = (max(edge - by, 0) for edge in (self.top, self.left)), (self.bottom, self.right)
        top, left = first
        bottom, right = (min(edge + by, self.size) for edge in last)
        return Window(top, bottom, left, right, self.size)

    def below(self) -> Window:
        """What a 3×3 convolution after nearest ×2 sees of the image of half the resolution."""
        wider = self.grown(1)
        return Window(wider.top // 2, -(-wider.bottom // 2), wider.left // 2, -(-wider.right // 2), self.size // 2)

    def doubled(self) -> Window:
        """The same place in the image of twice the resolution."""
        return Window(*(2 * edge for edge in self))


def _windows(size: int, tile: int) -> Iterator[Window]:
    for top in range(0, size, tile):
        for left in range(0, size, tile):
            yield Window(top, min(top + tile, size), left, min(left + tile, size), size)


@torch.no_grad()
def generate_in_tiles(
    generator: Generator,
    noise: Tensor,
    sentence: Tensor,
    words: Tensor,
    padding_mask: Tensor | None = None,
    *,
    eps: Tensor | None = None,
    tile: int = 256,
    kept: int = KEPT,
) -> GeneratorOutput:
    """What ``generator(...)`` generates for one sample, the same up to rounding; without maps.

    Args:
        generator: in evaluation mode.
        noise, sentence, words, padding_mask, eps: as the generator takes them, with ``B = 1``.
        tile: size of a window of the image, 64 or more. Memory grows with its square, and with the image itself.
        kept: bytes of a stage's features that are kept rather than recomputed.

    Raises:
        InputError: for a generator in training mode, a batch, a smaller tile, or tensors that do not fit.
    """
    require(not generator.training, "generate_in_tiles: the generator must be in evaluation mode; call .eval()")
    require(
        tile >= MIN_TILE,
        lambda: f"generate_in_tiles: tile must be at least {MIN_TILE}, which the halos need, got {tile}",
    )
    require(len(noise) == 1, lambda: f"generate_in_tiles: one image at a time, got a batch of {len(noise)}")
    return _Tiled(generator, words, padding_mask, tile, kept).generate(noise, sentence, eps)


class _Tiled:
    def __init__(self, generator: Generator, words: Tensor, mask: Tensor | None, tile: int, kept: int) -> None:
        self.generator, self.words, self.mask, self.tile, self.limit = generator, words, mask, tile, kept
        self.kept: dict[int, Tensor] = {}  # stage → its features
        self.means: list[Tensor] = []  # of each stage's features over pixels, [1, C]

    def generate(self, noise: Tensor, sentence: Tensor, eps: Tensor | None) -> GeneratorOutput:
        generator = self.generator
        generator.check_inputs(noise, sentence, self.words, self.mask, eps)
        sentence, self.words = generator.seen(sentence, self.words)
        condition, mu, logvar = generator.conditioning(sentence, eps)
        self.kept[0], mean = generator.initial_stage(condition, noise)
        self.means.append(mean)
        images = []
        for k, size in enumerate(generator.config.image_sizes):
            h, last = self.kept.get(k), k + 1 == len(generator.config.image_sizes)
            keep = k > 0 and not last and self._bytes(size) <= self.limit
            total = torch.zeros_like(mean, dtype=torch.float64)
            image = mean.new_empty(1, 3, size, size)
            for window in _windows(size, self.tile):
                around = window.grown(1)  # the image head's halo
                features = self.features(k, around)
                window.of(image).copy_(window.of(generator.image_heads[k](features), around))
                total += window.of(features, around).sum((2, 3), dtype=torch.float64)
                if keep:
                    h = mean.new_empty(*features.shape[:2], size, size) if h is None else h
                    window.of(h).copy_(window.of(features, around))
            if keep and h is not None:
                self.kept[k] = h
                self.kept = {stage: kept for stage, kept in self.kept.items() if stage == k}
            if k:
                self.means.append((total / size**2).to(mean.dtype))
            images.append(image)
        return GeneratorOutput(images, [], mu, logvar, [])

    def _bytes(self, size: int) -> int:
        return self.means[0].nbytes * size**2

    def features(self, k: int, window: Window) -> Tensor:
        """Features of stage ``k`` in a window ``[1, C, h, w]``."""
        if k in self.kept:
            return window.of(self.kept[k])
        stage = self.generator.stages[k - 1]
        assert isinstance(stage, RefinementStage)
        below = window.below().grown(2 * len(stage.residual_blocks))  # each block has two convolutions
        x = stage.memory(self.features(k - 1, below), self.words, self.mask, image_mean=self.means[k - 1]).h
        for block in stage.residual_blocks:
            x = block(x)
        return window.of(stage.up_block(x), below.doubled())
