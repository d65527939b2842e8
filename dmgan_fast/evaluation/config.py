"""Settings of an evaluation, and what they refer to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from dmgan_fast.config import config_dataclass, renamed
from dmgan_fast.errors import CheckpointError, InputError
from dmgan_fast.evaluation.catalogue import Metric
from dmgan_fast.evaluation.given_statistics import GivenStatistics
from dmgan_fast.files import load_json
from dmgan_fast.sampling.bundle import Bundle, open_bundle

USUAL_COUNT = 30_000  # as the paper


@config_dataclass
class EvaluationConfig:
    """What is evaluated, and how.

    ``weights``: a run, its weights or one of its checkpoints, None for those shipped; ``step``: of a run, the number of
    a checkpoint or ``"best"``; ``images``: a folder of images instead.
    ``count``: images to generate, 30,000 unless given; of a folder, all unless given.
    ``data``: real images and captions, from the test split; None: the run's own (``"demo"`` for those shipped).
    ``damsm``: encoders for R-precision and DAMSM features; None: those the run was trained with.
    ``inception``: folder of Inception weights; ``classifier``: file of a fine-tuned Inception-v3.
    ``metrics``: names; empty: all usual ones that the weights here allow.
    ``statistics``: metric → ``.npz`` with ``mu`` and ``sigma`` that stands for the real images.
    ``max_words``: words a caption is cut to (the paper: 25 for CUB, 20 for COCO).
    ``skip_bad``: continue without at most so many of the data set's images that can't be used; the report names them.
    ``cache``: folder for features of real images. ``keep_features``: do not delete those of the generated ones.
    """

    weights: str | None = None
    step: str | None = None
    images: str | None = renamed(None, "images", "pictures")
    count: int | None = Field(None, ge=2)
    data: str | None = None
    damsm: str | None = None
    inception: str | None = None
    classifier: str | None = None
    metrics: tuple[str, ...] = ()
    statistics: dict[str, str] = Field(default_factory=dict)
    seed: int = Field(0, ge=0)
    max_words: int = Field(25, ge=1)
    batch_size: int = Field(32, ge=1)
    skip_bad: int = Field(0, ge=0)
    device: str = "auto"
    cache: str | None = None
    save_images: bool = renamed(False, "save_images", "save_pictures")
    keep_features: bool = False


def run_config(weights: str | None) -> dict[str, Any]:
    """The configuration of the training run that ``weights`` belong to; empty if they belong to none."""
    if weights is None:
        return {}
    path = Path(weights)
    for folder in (path, path.absolute().parent, *([path.absolute().parents[1]] if path.is_file() else [])):
        file = folder / "config.json"
        if file.is_file():
            try:
                values = load_json(file)
            except (OSError, ValueError) as error:
                raise CheckpointError(f"{file} can't be read: {error}") from None
            if isinstance(values, dict) and values.get("kind") == "gan":
                return values
    return {}


def data_of(config: EvaluationConfig, run: dict[str, Any]) -> str:
    """Whose captions are generated and whose images are compared with; never guessed for what came from elsewhere."""
    source: str | None = config.data or run.get("data", {}).get("source")
    if source is None and config.images is not None:
        raise InputError("images need data, whose test split they are compared with: --data DIR, or demo")
    if source is None and config.weights is not None:
        raise InputError(f"{config.weights} is not part of a training run, so data must be named: --data DIR, or demo")
    return source or "demo"


def encoders_of(asked: str | None, of_run: str | None) -> Bundle | str:
    """The bundle of DAMSM encoders, or why there is none."""
    if asked is not None:
        return open_bundle(asked, "image_encoder", "text_encoder")
    if of_run is None:
        return "no encoders given: --damsm DIR, the folder of a finished `pretrain`"
    try:
        return open_bundle(of_run, "image_encoder", "text_encoder")
    except CheckpointError as error:
        return f"the encoders of the run are not there ({error}); give --damsm DIR"


def statistics_of(statistics: dict[str, str], metrics: list[Metric]) -> dict[str, GivenStatistics]:
    """What stands for the real images, by metric."""
    for name in statistics:
        allowed = [metric.name for metric in metrics if metric.kind == "frechet"]
        if name not in allowed:
            raise InputError(f"statistics: {name!r} is not one of the FIDs asked for, {', '.join(allowed) or 'none'}")
    return {name: GivenStatistics.read(Path(file)) for name, file in statistics.items()}
