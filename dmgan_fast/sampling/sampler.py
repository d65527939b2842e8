"""Generate images from captions with a folder of weights."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmgan_fast.data.captions import pad
from dmgan_fast.data.vocabulary import Vocabulary
from dmgan_fast.devices import pick_device
from dmgan_fast.errors import CheckpointError, InputError
from dmgan_fast.modules import Generator, GeneratorOutput, TextEncoder, generate_in_tiles, padding_mask
from dmgan_fast.modules.pretrained import check_download
from dmgan_fast.old_names import warn_of
from dmgan_fast.sampling.advice import told_of_sampling
from dmgan_fast.sampling.bundle import SHIPPED, VOCABULARY_NAME, check_words, open_bundle
from dmgan_fast.sampling.gates import writing_gates
from dmgan_fast.sampling.hub import fetch_folder, is_hub_id

POSITION_STRIDE = 1_000_003  # keeps the noise of one seed's captions apart from another's
# And that of a caption's images: PyTorch's CPU generator looks at 32 bits of a seed, in which multiples of this
# number, the golden ratio's, stay far from each other.
COPY_STRIDE = 2_654_435_761
PARTS = ("generator", "text_encoder")
SEEDS = 1 << 64  # PyTorch's generators take so many


@dataclass
class Sample:
    """What was generated for one caption.

    ``images``: ``[3, S, S]`` in [-1, 1], one for each resolution, smallest first. ``words``: those the model knows, in
    order; ``unknown``: those it does not. With maps: ``attention`` ``[T, H, W]`` (T = len(words)), ``response_gates``
    ``[H, W]`` and ``writing_gates`` ``[T]``, one for each refinement; a model without gates has none. ``number``,
    ``copy``: the caption's place among those given, and the image's among those of the caption, both from 1.
    """

    caption: str
    words: list[str]
    unknown: list[str]
    images: list[Tensor]
    attention: list[Tensor] = field(default_factory=list)
    response_gates: list[Tensor] = field(default_factory=list)
    writing_gates: list[Tensor] = field(default_factory=list)
    number: int = 1
    copy: int = 1


@dataclass(frozen=True)
class _Wanted:
    """One image to generate."""

    caption: str
    indices: list[int]
    unknown: list[str]
    seed: int
    number: int
    copy: int


class Sampler:
    """Captions in, images out.

    Uses the generator as it is: on CPUs its fused ops beat those of a copy by ``modules.fold`` and already apply
    batch norms in the pass of the GLUs. A sampler of such a copy works as well. A server's waiting requests are one
    call of ``sample``: it groups them, and an image does not depend on its group.

    Raises:
        CheckpointError: if generator, text encoder and vocabulary do not belong together.

    Example:
        >>> sampler = Sampler.from_pretrained()                       # the shipped weights
        >>> sample = sampler.sample(["a red apple"], seed=1)[0]        # doctest: +SKIP
        >>> sample.images[-1].shape                                  # doctest: +SKIP
        torch.Size([3, 128, 128])
    """

    def __init__(self, generator: Generator, text_encoder: TextEncoder, vocabulary: Vocabulary) -> None:
        check_words(vocabulary, {"text_encoder": text_encoder, "generator": generator}, "Sampler")
        wanted, said = generator.config.word_channels, text_encoder.config.word_channels
        if wanted != said:
            raise CheckpointError(
                f"Sampler: the generator takes words of {wanted} channels, the text encoder gives {said}; they do not "
                "belong together"
            )
        self.generator = generator.eval()
        self.text_encoder = text_encoder.eval()
        self.vocabulary = vocabulary

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str] | None = None,
        *,
        device: str = "auto",
        step: str | int | None = None,
        subfolder: str = "",
        **download: Any,
    ) -> Sampler:
        """Load the weights in a folder or on the Hub; None: those in the package.

        Args:
            source: a run, its ``weights/``, one of its checkpoints, or a Hub id ``owner/name`` of a repository that
                holds what a run's ``weights/`` hold.
            device: ``"auto"``: a GPU if there is one.
            step: of a run: the step of a checkpoint, or ``"best"``; None: its latest weights.
            subfolder: of ``source``, where the weights are.
            download: ``revision``, ``cache_dir``, ``force_download``, ``local_files_only``, ``token``, which mean what
                they mean to ``huggingface_hub``, and nothing for a folder.

        Raises:
            CheckpointError: naming what is missing or does not fit.
            InputError: for a device that is not here, or an option that is not among these.
        """
        place = str(pick_device(device))
        check_download(download, "device", "step", "subfolder")
        if source is not None and not Path(source).exists() and is_hub_id(source):
            if step is not None:
                raise InputError(f"step: {str(source)!r} is a Hub id, not a run; choose by its revision instead")
            source = fetch_folder(str(source), PARTS, (VOCABULARY_NAME,), subfolder=subfolder, **download)
        elif subfolder:
            source = Path(SHIPPED if source is None else source) / subfolder
        bundle = open_bundle(source, *PARTS, step=step)
        return cls(bundle.generator(place), bundle.text_encoder(place), bundle.vocabulary)

    @property
    def device(self) -> torch.device:
        """Where it generates."""
        return self.text_encoder.embedding.weight.device

    def sample(
        self,
        captions: Sequence[str],
        *,
        seed: int = 0,
        count: int = 1,
        batch_size: int = 16,
        maps: bool = False,
        tile: int | None = None,
        truncation: float | None = None,
        noise_strength: float = 1.0,
    ) -> list[Sample]:
        """Generate ``count`` images of every resolution for each caption, a caption's together.

        An image's noise comes from ``(seed, its caption's position, its number)``, so it does not depend on
        ``batch_size`` or on the captions beside it (up to rounding; with ``mask_mode="official"`` masks do cross
        samples).

        Args:
            captions: any number of texts.
            seed: 0 or more.
            count: images of each caption, 1 or more.
            batch_size: images generated at once.
            maps: also return attention and response-gate maps.
            tile: generate one image at a time, in windows of this size (``modules.generate_in_tiles``): large images in
                little memory. Not with maps.
            truncation: keep the noise within this many deviations: below 1 images are more alike and more typical.
                None: all of it.
            noise_strength: the noise is multiplied by it: 0 generates the same image for every seed.

        Raises:
            InputError: for no captions, an empty one, or one without a known word, and for tiles with maps.
            OutOfMemory: naming what would fit.
        """
        options: dict[str, Any] = {"seed": seed, "count": count, "batch_size": batch_size, "maps": maps, "tile": tile}
        return list(self.stream(captions, **options, truncation=truncation, noise_strength=noise_strength))

    def draw(self, captions: Sequence[str], **options: Any) -> list[Sample]:
        """``sample``, by its earlier name."""
        warn_of("Sampler.draw", "Sampler.sample")
        return self.sample(captions, **options)

    def stream(
        self,
        captions: Sequence[str],
        *,
        seed: int = 0,
        count: int = 1,
        batch_size: int = 16,
        maps: bool = False,
        tile: int | None = None,
        truncation: float | None = None,
        noise_strength: float = 1.0,
        part: tuple[int, int] = (0, 1),
    ) -> Iterator[Sample]:
        """``sample``, each batch as it is ready, so that any number of images takes no more memory than a batch.

        All captions are checked before the first image is generated. ``part``: of ``(k, n)``, every n-th batch from the
        k-th on, so that n processes generate together what one would.
        """
        if not captions:
            raise InputError("sample: at least one caption is needed")
        if batch_size < 1:
            raise InputError(f"sample: batch_size must be at least 1, got {batch_size}")
        if seed < 0:
            raise InputError(f"sample: seed must be 0 or more, got {seed}")
        if count < 1:
            raise InputError(f"sample: count must be at least 1, got {count}")
        _check_noise(truncation, noise_strength)
        if tile is not None:
            if maps:
                raise InputError("sample: tiles give no maps; leave out one of them")
            batch_size = 1
        encoded = [self._encode(caption, number) for number, caption in enumerate(captions, start=1)]
        wanted = (
            _Wanted(caption, *encoded[k], (seed * POSITION_STRIDE + k + copy * COPY_STRIDE) % SEEDS, k + 1, copy + 1)
            for k, caption in enumerate(captions)
            for copy in range(count)
        )
        noise = {"truncation": truncation, "noise_strength": noise_strength}
        batches = iter(lambda: list(islice(wanted, batch_size)), [])
        return self._stream(islice(batches, part[0], None, part[1]), maps, tile, noise)

    def between(
        self,
        first: str,
        second: str,
        *,
        steps: int = 8,
        seed: int = 0,
        batch_size: int = 16,
        tile: int | None = None,
        truncation: float | None = None,
        noise_strength: float = 1.0,
    ) -> list[Sample]:
        """Images on the way from one caption to another, both included, all of the same noise.

        Sentence and words are mixed linearly; on the way, words of both captions are read.

        Args:
            first, second: the captions.
            steps: images, 2 or more.
            seed, batch_size, tile, truncation, noise_strength: as in ``sample``.

        Raises:
            InputError: as ``sample``, and for fewer than 2 steps.
        """
        if steps < 2:
            raise InputError(f"between: steps must be at least 2, both captions included, got {steps}")
        if seed < 0 or batch_size < 1:
            raise InputError(f"between: seed must be 0 or more and batch_size at least 1, got {seed} and {batch_size}")
        _check_noise(truncation, noise_strength)
        ends = [self._encode(caption, number) for number, caption in enumerate((first, second), start=1)]
        with torch.inference_mode():
            text = self._text([indices for indices, _ in ends])
            noise = self._noise([seed * POSITION_STRIDE % SEEDS], truncation, noise_strength)
            shares = torch.linspace(0, 1, steps).tolist()
            generated: list[list[Tensor]] = []
            size = 1 if tile is not None else batch_size
            for start in range(0, steps, size):
                mixed = _Text.stack([text.mix(share) for share in shares[start : start + size]])
                out = self._generate(mixed, [x.expand(len(mixed.lengths), -1) for x in noise], False, tile)
                generated += [[image[k].cpu() for image in out.images] for k in range(len(mixed.lengths))]
        (known, unknown), (others, more) = ends
        return [
            Sample(
                caption=first if share == 0 else second if share == 1 else f"{first} -> {second}, {share:.0%}",
                words=self.vocabulary.decode(known if share < 1 else others),
                unknown=unknown if share == 0 else more if share == 1 else [*unknown, *more],
                images=images,
                number=number,
            )
            for number, (share, images) in enumerate(zip(shares, generated, strict=True), start=1)
        ]

    @torch.inference_mode()
    def generate(
        self,
        captions: Sequence[Sequence[int]],
        seeds: Sequence[int],
        *,
        maps: bool = False,
        tile: int | None = None,
        truncation: float | None = None,
        noise_strength: float = 1.0,
    ) -> GeneratorOutput:
        """One batch of encoded captions, each with the noise of its own seed.

        Args:
            captions: word indices, at least one for each.
            seeds: one for each caption.
            maps: also attention.
            tile: in windows of this size; then one caption, without maps.
            truncation, noise_strength: as in ``sample``.

        Returns:
            the generator's output, on its device.
        """
        return self._generate(self._text(captions), self._noise(seeds, truncation, noise_strength), maps, tile)

    # Parts of it

    def _encode(self, caption: str, number: int) -> tuple[list[int], list[str]]:
        if not caption.strip():
            raise InputError(f"caption {number} is empty; write what the image should show")
        indices, unknown = self.vocabulary.encode(caption)
        if not indices:
            raise InputError(f"caption {number}, {caption!r}, has no word that the model knows")
        return indices, unknown

    def _text(self, captions: Sequence[Sequence[int]]) -> _Text:
        known = len(self.vocabulary)
        for indices in captions:
            if not indices or min(indices) < 0 or max(indices) >= known:
                raise InputError(
                    f"generate: a caption must be indices in 0..{known - 1}, at least one, got {list(indices)}"
                )
        lengths = torch.tensor([len(indices) for indices in captions])
        texts = torch.stack([pad(indices, int(lengths.max())) for indices in captions]).to(self.device)
        words, sentence = self.text_encoder(texts, lengths)
        return _Text(words, sentence, padding_mask(lengths, texts.shape[1]).to(self.device), lengths)

    def _noise(self, seeds: Sequence[int], truncation: float | None, strength: float) -> list[Tensor]:
        """Noise ``[B, Z]`` and that of the conditioning ``[B, C]``."""
        config = self.generator.config
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        generated = (
            torch.stack([torch.randn(size, generator=each) for each in generators])
            for size in (config.noise_channels, config.condition_channels)
        )
        return [(truncate(noise, truncation) * strength).to(self.device) for noise in generated]

    def _generate(self, text: _Text, noise: list[Tensor], maps: bool, tile: int | None) -> GeneratorOutput:
        z, eps = noise
        with told_of_sampling(self.generator, len(z), tile):
            if tile is not None:
                return generate_in_tiles(self.generator, z, text.sentence, text.words, text.mask, eps=eps, tile=tile)
            output: GeneratorOutput = self.generator(
                z, text.sentence, text.words, text.mask, eps=eps, return_attention=maps
            )
            return output

    def _stream(
        self, batches: Iterator[list[_Wanted]], maps: bool, tile: int | None, noise: dict[str, Any]
    ) -> Iterator[Sample]:
        for rows in batches:
            seeds = [row.seed for row in rows]
            watched: AbstractContextManager[list[Tensor]] = writing_gates(self.generator) if maps else nullcontext([])
            with watched as written:
                out = self.generate([row.indices for row in rows], seeds, maps=maps, tile=tile, **noise)
            for k, row in enumerate(rows):
                yield Sample(
                    caption=row.caption,
                    words=self.vocabulary.decode(row.indices),
                    unknown=row.unknown,
                    images=[image[k].cpu() for image in out.images],
                    attention=[attention[k, : len(row.indices)].cpu() for attention in out.attention],
                    response_gates=[gate[k, 0].cpu() for gate in out.response_gates],
                    writing_gates=[gate[k, : len(row.indices)].cpu() for gate in written],
                    number=row.number,
                    copy=row.copy,
                )


@dataclass(frozen=True)
class _Text:
    """Encoded captions: words ``[B, D, T]``, sentence ``[B, D]``, padding ``[B, T]``, lengths ``[B]``."""

    words: Tensor
    sentence: Tensor
    mask: Tensor
    lengths: Tensor

    def mix(self, share: float) -> _Text:
        """Of two captions, the point between them. At the ends it is one of them; between, no word of either hides."""
        first, second = ((1 - share), share)
        mask = self.mask[0] & self.mask[1] if 0 < share < 1 else self.mask[round(share)]
        return _Text(
            (first * self.words[0] + second * self.words[1])[None],
            (first * self.sentence[0] + second * self.sentence[1])[None],
            mask[None],
            self.lengths.max()[None],
        )

    @classmethod
    def stack(cls, texts: Sequence[_Text]) -> _Text:
        """One batch of single captions of one width."""
        parts = ("words", "sentence", "mask", "lengths")
        return cls(*(torch.cat([getattr(text, part) for text in texts]) for part in parts))


def truncate(noise: Tensor, within: float | None) -> Tensor:
    """Normal noise as if sampled within so many deviations, by its quantiles: the order of all values stays."""
    if within is None:
        return noise
    lowest = 0.5 * math.erfc(within / math.sqrt(2))
    share = lowest + torch.special.ndtr(noise.double()) * (1 - 2 * lowest)
    return torch.special.ndtri(share).clamp(-within, within).to(noise.dtype)


def _check_noise(truncation: float | None, strength: float) -> None:
    if truncation is not None and not 0 < truncation < math.inf:
        raise InputError(f"sample: truncation must be above 0, as 0.7, got {truncation}")
    if not 0 <= strength < math.inf:
        raise InputError(f"sample: noise_strength must be 0 or more, as 0.5, got {strength}")
