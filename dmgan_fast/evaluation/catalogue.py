"""The numbers an evaluation reports: their names, and what each is measured with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from dmgan_fast.errors import InputError
from dmgan_fast.evaluation.extractors import Classifier, DAMSMFeatures, Extractor, TFInception, TorchvisionInception
from dmgan_fast.evaluation.weights import MissingWeights, default_folder
from dmgan_fast.sampling.bundle import Bundle

SPLITS = 10
CANDIDATES, FOLDS = 100, 10
SUBSETS, SUBSET_SIZE = 100, 1000


@dataclass(frozen=True)
class Metric:
    """``extractor``: its name below. ``usual``: reported unless metrics are named."""

    name: str
    title: str
    kind: Literal["inception", "frechet", "kernel", "retrieval"]
    extractor: str
    usual: bool = True

    @property
    def better(self) -> str:
        """``"higher"`` or ``"lower"``."""
        return "lower" if self.kind in ("frechet", "kernel") else "higher"

    @property
    def output(self) -> str:
        """The extractor's output that it needs."""
        return "logits" if self.kind == "inception" else "features"


METRICS = {
    metric.name: metric
    for metric in (
        Metric("is-tf", "Inception Score (TF-Inception, the standard)", "inception", "tf"),
        Metric(
            "is-coco",
            "Inception Score (paper's COCO protocol: TF-Inception, Pillow resize)",
            "inception",
            "tf-pil",
            usual=False,
        ),
        Metric("is-birds", "Inception Score (paper's CUB protocol: fine-tuned classifier)", "inception", "classifier"),
        Metric(
            "fid-paper", "FID (paper's protocol: torchvision Inception-v3, Pillow resize)", "frechet", "torchvision"
        ),
        Metric(
            "fid-align-corners",
            "FID (torchvision Inception-v3, bilinear align_corners resize)",
            "frechet",
            "torchvision-align-corners",
            usual=False,
        ),
        Metric("fid-tf", "FID (TF-Inception, the standard)", "frechet", "tf"),
        Metric("fid-damsm", "FID (DAMSM features; comparable within one pretraining only)", "frechet", "damsm"),
        Metric("kid-tf", "KID (TF-Inception, the standard)", "kernel", "tf"),
        Metric("kid-damsm", "KID (DAMSM features; comparable within one pretraining only)", "kernel", "damsm"),
        Metric("r-precision", "R-precision % (DAMSM)", "retrieval", "damsm"),
        Metric(
            "r-precision-official", "R-precision % (DAMSM, the authors' slicing)", "retrieval", "damsm", usual=False
        ),
    )
}


def named(names: Sequence[str]) -> list[Metric]:
    """Metrics of these names; none: the usual ones.

    Raises:
        InputError: for an unknown name.
    """
    for name in names:
        if name not in METRICS:
            raise InputError(f"metrics: {name!r} is not one of {', '.join(METRICS)}")
    return [metric for metric in METRICS.values() if (metric.name in names if names else metric.usual)]


@dataclass(frozen=True)
class Weights:
    """Where weights of extractors are.

    ``inception``: folder of published files; ``classifier``: a file; ``damsm``: bundle of encoders, or why none.
    """

    inception: Path | None
    classifier: Path | None
    damsm: Path | Bundle | str

    def load(self, name: str, device: torch.device) -> Extractor:
        """The extractor of this name.

        Raises:
            MissingWeights: if its weights are not here.
            CheckpointError: if they are not what they should be.
        """
        folder = self.inception or default_folder()
        if name == "classifier":
            if self.classifier is None:
                raise MissingWeights(
                    "no classifier given: --classifier FILE, an Inception-v3 fine-tuned on birds (docs/evaluation.md)"
                )
            return Classifier(self.classifier, device=device)
        if name == "damsm":
            if isinstance(self.damsm, str):
                raise MissingWeights(self.damsm)
            return DAMSMFeatures(self.damsm, device=device)
        published: dict[str, Callable[..., Extractor]] = {
            "torchvision": TorchvisionInception,
            "torchvision-align-corners": partial(TorchvisionInception, resize="align_corners"),
            "tf": TFInception,
            "tf-pil": partial(TFInception, resize="pil"),
        }
        return published[name](folder, device=device)
