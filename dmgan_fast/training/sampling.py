"""Draw pictures from captions with a folder of weights."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dmgan_fast.data.captions import pad
from dmgan_fast.data.vocabulary import Vocabulary
from dmgan_fast.errors import InputError
from dmgan_fast.modules import Generator, GeneratorOutput, TextEncoder, draw_in_tiles, padding_mask
from dmgan_fast.training.weights import SHIPPED, VOCABULARY_NAME, find_bundle

POSITION_STRIDE = 1_000_003  # keeps the noise of one seed's captions apart from another's


@dataclass
class Drawing:
    """What was drawn for one caption.

    ``images``: ``[3, S, S]`` in [-1, 1], one for each side, smallest first. ``words``: those the model knows, in
    order; ``unknown``: those it does not. With maps: ``attention`` ``[T, H, W]`` (T = len(words)) and
    ``response_gates`` ``[H, W]``, one for each refinement.
    """

    caption: str
    words: list[str]
    unknown: list[str]
    images: list[Tensor]
    attention: list[Tensor] = field(default_factory=list)
    response_gates: list[Tensor] = field(default_factory=list)


class Sampler:
    """Captions in, pictures out.

    Draws with the generator as it is: on CPUs its fused ops beat ``Generator.folded`` and already apply batch norms in
    the pass of the GLUs. A sampler of the folded copy, ``Sampler(generator.folded(), ...)``, works as well. A server's
    waiting requests are one call of ``draw``: it groups them, and a picture does not depend on its group.

    Example:
        >>> sampler = Sampler.from_pretrained()                       # the shipped weights
        >>> drawing = sampler.draw(["a red apple"], seed=1)[0]        # doctest: +SKIP
        >>> drawing.images[-1].shape                                  # doctest: +SKIP
        torch.Size([3, 128, 128])
    """

    def __init__(self, generator: Generator, text_encoder: TextEncoder, vocabulary: Vocabulary) -> None:
        self.generator = generator.eval()
        self.text_encoder = text_encoder.eval()
        self.vocabulary = vocabulary

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str] | None = None, *, device: str = "cpu") -> Sampler:
        """Load ``folder`` (a run or its ``weights/``); None: the weights shipped with the package.

        Raises:
            CheckpointError: naming what is missing or does not fit.
        """
        bundle = find_bundle(SHIPPED if folder is None else folder, "generator", "text_encoder")
        return cls(
            Generator.from_pretrained(bundle / "generator", map_location=device),
            TextEncoder.from_pretrained(bundle / "text_encoder", map_location=device),
            Vocabulary.load(bundle / VOCABULARY_NAME),
        )

    @torch.inference_mode()
    def draw(
        self,
        captions: Sequence[str],
        *,
        seed: int = 0,
        batch_size: int = 16,
        maps: bool = False,
        tile: int | None = None,
    ) -> list[Drawing]:
        """Draw one picture of every side for each caption.

        A caption's noise comes from ``(seed, its position)``, so its picture does not depend on ``batch_size`` or on
        the captions beside it (up to rounding; with ``mask_mode="official"`` masks do cross samples).

        Args:
            captions: any number of texts.
            seed: 0 or more.
            batch_size: captions drawn at once.
            maps: also return attention and response-gate maps.
            tile: draw one picture at a time, in windows of this side (``modules.draw_in_tiles``): large pictures in
                little memory. Not with maps.

        Raises:
            InputError: for no captions, an empty one, or one without a known word, and for tiles with maps.
        """
        if not captions:
            raise InputError("draw: at least one caption is needed")
        if batch_size < 1:
            raise InputError(f"draw: batch_size must be at least 1, got {batch_size}")
        if seed < 0:
            raise InputError(f"draw: seed must be 0 or more, got {seed}")
        if tile is not None:
            if maps:
                raise InputError("draw: tiles give no maps; leave out one of them")
            batch_size = 1
        encoded = [self._encode(caption, number) for number, caption in enumerate(captions, start=1)]
        drawings: list[Drawing] = []
        for start in range(0, len(captions), batch_size):
            rows = range(start, min(start + batch_size, len(captions)))
            seeds = [seed * POSITION_STRIDE + k for k in rows]
            drawings += self._draw([(captions[k], *encoded[k]) for k in rows], seeds, maps, tile)
        return drawings

    @torch.inference_mode()
    def generate(
        self, captions: Sequence[Sequence[int]], seeds: Sequence[int], *, maps: bool = False, tile: int | None = None
    ) -> GeneratorOutput:
        """One batch of encoded captions, each with the noise of its own seed.

        Args:
            captions: word indices, at least one for each.
            seeds: one for each caption.
            maps: also attention.
            tile: in windows of this side; then one caption, without maps.

        Returns:
            the generator's output, on its device.
        """
        device = self.text_encoder.embedding.weight.device
        lengths = torch.tensor([len(indices) for indices in captions])
        longest = int(lengths.max())
        texts = torch.stack([pad(indices, longest) for indices in captions]).to(device)
        words, sentence = self.text_encoder(texts, lengths)
        config = self.generator.config
        sizes = (config.noise_channels, config.condition_channels)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        noise, eps = (
            torch.stack([torch.randn(size, generator=generator) for generator in generators]).to(device)
            for size in sizes
        )
        mask = padding_mask(lengths, longest).to(device)
        if tile is not None:
            return draw_in_tiles(self.generator, noise, sentence, words, mask, eps=eps, tile=tile)
        output: GeneratorOutput = self.generator(noise, sentence, words, mask, eps=eps, return_attention=maps)
        return output

    def _encode(self, caption: str, number: int) -> tuple[list[int], list[str]]:
        if not caption.strip():
            raise InputError(f"caption {number} is empty; write what the picture should show")
        indices, unknown = self.vocabulary.encode(caption)
        if not indices:
            raise InputError(f"caption {number}, {caption!r}, has no word that the model knows")
        return indices, unknown

    def _draw(
        self, rows: list[tuple[str, list[int], list[str]]], seeds: list[int], maps: bool, tile: int | None
    ) -> list[Drawing]:
        out = self.generate([indices for _, indices, _ in rows], seeds, maps=maps, tile=tile)
        return [
            Drawing(
                caption=caption,
                words=self.vocabulary.decode(indices),
                unknown=unknown,
                images=[image[k].cpu() for image in out.images],
                attention=[attention[k, : len(indices)].cpu() for attention in out.attention],
                response_gates=[gate[k, 0].cpu() for gate in out.response_gates],
            )
            for k, (caption, indices, unknown) in enumerate(rows)
        ]
