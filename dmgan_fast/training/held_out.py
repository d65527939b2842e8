"""Progress while a GAN trains: images of held-out captions with fixed noise, measured by the DAMSM encoders.

R-precision of the images generated, FID and KID on the image encoder's codes against the held-out images. Few images,
so that it takes seconds: the numbers compare steps of one run, not runs, and are not those of ``evaluate``.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dmgan_fast.data import CaptionedImages, ImageBatch
from dmgan_fast.data.loader import collate
from dmgan_fast.images import to_bytes
from dmgan_fast.metrics._checks import EvaluationWarning
from dmgan_fast.metrics.frechet import frechet_of_moments
from dmgan_fast.metrics.kernel_distance import kernel_distance
from dmgan_fast.metrics.moments import FeatureMoments
from dmgan_fast.metrics.retrieval import r_precision
from dmgan_fast.modules import Generator
from dmgan_fast.training.batch import Batch

CANDIDATES = 100
LEAST = 32  # images generated, of however few captions
LOWER_IS_BETTER = {"fid": True, "kid": True, "r_precision": False}

_log = logging.getLogger("dmgan_fast.runs")


class HeldOutMeasures:
    """Measures one generator again and again, on the same captions and noise.

    Args:
        held_out: real images with captions.
        encode: a batch of them → what a generator generates from.
        image_encoder: DAMSM's; ``encoder(images) -> (regions, code)``.
        images: generated for each measurement, at the most.
        at_once: of them.
        seed: of the noise.
    """

    def __init__(
        self,
        held_out: CaptionedImages,
        encode: Callable[[ImageBatch], Batch],
        image_encoder: nn.Module,
        *,
        images: int,
        at_once: int,
        seed: int,
    ) -> None:
        self.held_out, self.encode, self.image_encoder = held_out, encode, image_encoder
        self.real_count = min(images, len(held_out))
        self.count = min(images, max(self.real_count, LEAST))
        self.at_once, self.seed = at_once, seed
        self.real: Tensor | None = None  # codes [N, D] of the real images, computed once

    @torch.no_grad()
    def measure(self, generator: Generator) -> dict[str, float]:
        """``fid``, ``kid``, and ``r_precision`` in per cent with its ``chance``, where there are captions enough."""
        generators = torch.Generator().manual_seed(self.seed)
        config = generator.config
        noise, eps = (
            torch.randn(self.count, n, generator=generators) for n in (config.noise_channels, config.condition_channels)
        )
        codes, said, classes, real = [], [], [], []
        for start in range(0, self.count, self.at_once):
            rows = range(start, min(start + self.at_once, self.count))
            batch = collate([self.held_out[n % self.real_count] for n in rows])
            text = self.encode(batch)
            device = text.sentence.device
            z, e = (x[start : rows.stop].to(device) for x in (noise, eps))
            generated = generator(z, text.sentence, text.words, text.padding_mask, eps=e).images[-1]
            codes.append(self._codes(generated))
            said.append(text.sentence.float().cpu())
            classes.append(batch.class_ids)
            if self.real is None and start < self.real_count:
                real.append(self._codes(text.images[-1])[: self.real_count - start])
        if self.real is None:
            self.real = torch.cat(real)
        found = torch.cat(codes)
        if not found.isfinite().all():
            _log.warning("the generator produces NaN or infinity for held-out captions; nothing was measured")
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EvaluationWarning)  # that images are few is known
            return self._distances(found, self.real) | self._retrieval(found, torch.cat(said), torch.cat(classes))

    def _codes(self, images: Tensor) -> Tensor:
        """Of the 8-bit images that a user gets."""
        _, codes = self.image_encoder(to_bytes(images).float() / 127.5 - 1)
        return codes.float().cpu()

    def _distances(self, generated: Tensor, real: Tensor) -> dict[str, float]:
        size = min(len(generated), len(real))
        if size < 2:
            return {}
        subsets = 1 if len(generated) == len(real) else 10
        return {
            "fid": frechet_of_moments(FeatureMoments.of(generated), FeatureMoments.of(real)),
            "kid": kernel_distance(generated, real, subsets=subsets, subset_size=size, seed=self.seed)[0],
        }

    def _retrieval(self, generated: Tensor, said: Tensor, classes: Tensor) -> dict[str, float]:
        others = len(classes) - int(classes.unique(return_counts=True)[1].max())
        candidates = min(CANDIDATES, others + 1)
        if candidates < 2:
            return {}
        settings: dict[str, Any] = {"candidates": candidates, "folds": 1, "class_ids": classes, "seed": self.seed}
        return {"r_precision": r_precision(generated, said, **settings)[0], "chance": 100 / candidates}


def score(found: dict[str, float], by: str) -> float | None:
    """The measure ``by``, turned so that more is better; None if it was not measured."""
    value = found.get(by)
    return None if value is None else -value if LOWER_IS_BETTER[by] else value
