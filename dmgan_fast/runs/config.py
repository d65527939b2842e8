"""The settings of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from dmgan_fast.config import config_dataclass, renamed
from dmgan_fast.errors import InputError
from dmgan_fast.modules import DiscriminatorConfig, GeneratorConfig, ImageEncoderConfig, TextEncoderConfig
from dmgan_fast.parallel.processes import TIMEOUT
from dmgan_fast.parallel.rows import FIRST
from dmgan_fast.runs.policy import MemoryPolicy

Precision = Literal["fp32", "bf16", "fp16"]
# Of earlier versions: section → old name → name.
RENAMED = {"image_encoder": {"side": "image_size"}, "loop": {"measure_pictures": "measure_images"}}


@config_dataclass
class DataConfig:
    """``source``: ``"demo"`` or a folder; ``max_words``: words a caption is cut to; ``workers``: reading processes;
    None: as many as help (``data.workers``). ``cache``: memory for decoded images, as ``4GiB``; ``auto``: a quarter of
    what is free; 0: none.

    ``skip_bad``: continue without at most so many images that can't be used.
    """

    source: str = "demo"
    max_words: int = Field(18, ge=1)
    workers: int | None = Field(None, ge=0)
    cache: str | int = "auto"
    skip_bad: int = Field(0, ge=0)


@config_dataclass
class LoopConfig:
    """How long and how often. ``device``: ``"auto"`` takes a GPU if there is one. ``batch_size``: of all processes.

    ``keep_freed_memory``: on a CPU, let the process keep memory that is freed (``training.allocator``).

    ``save_in_background``: checkpoints are copied in memory and written while training continues; else training waits.

    ``measure_every``: steps between measurements of held-out captions with the DAMSM encoders (``training.held_out``),
    and whether the best weights are kept; 0: never. ``measure_images``: generated each time. ``best_by``: which
    measure says what is best; encoders go by their losses on held-out images.

    ``logger``: where curves and samples are looked at; ``"wandb"``: Weights & Biases, if it is installed.
    """

    steps: int = Field(1000, ge=1)
    batch_size: int = Field(10, ge=2)
    seed: int = 0
    device: str = "auto"
    log_every: int = Field(20, ge=1)
    sample_every: int = Field(500, ge=1)
    checkpoint_every: int = Field(500, ge=1)
    keep_checkpoints: int = Field(2, ge=1)
    save_in_background: bool = True
    keep_freed_memory: bool = True
    measure_every: int = Field(500, ge=0)
    measure_images: int = renamed(128, "measure_images", "measure_pictures", ge=2)
    best_by: Literal["fid", "kid", "r_precision"] = "fid"
    logger: Literal["tensorboard", "wandb"] = "tensorboard"


@config_dataclass
class StepConfig:
    """Settings of a step; the defaults are the paper's for CUB birds. ``damsm_weight``: the paper's lambda.

    ``precision``: ``"bf16"`` and ``"fp16"`` run under autocast (weights, statistics, softmax and losses stay float32);
    with ``"fp16"`` every optimiser scales its gradients and skips a step that overflows.

    ``memory``: what is kept and what is recomputed; exact. ``accumulate``: the generator generates the batch in so many
    parts, each normalised by the statistics of its own part. That is **not** exact: batch norm sees smaller batches,
    and its running statistics move once per part.

    ``cuda_graph``: capture the whole step in a CUDA graph for each shape of batch (``training.graph``).
    """

    generator_learning_rate: float = 2e-4
    discriminator_learning_rate: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)
    damsm_weight: float = 5.0
    conditioning_weight: float = 1.0
    gamma1: float = 4.0
    gamma2: float = 5.0
    gamma3: float = 10.0
    average_decay: float = 0.999
    average_buffers: bool = True
    precision: Precision = "fp32"
    memory: MemoryPolicy = MemoryPolicy()
    accumulate: int = 1
    cuda_graph: bool = False

    def __post_init__(self) -> None:
        for name in ("generator_learning_rate", "discriminator_learning_rate", "gamma1", "gamma2", "gamma3"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("damsm_weight", "conditioning_weight"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} must be 0 or more, got {getattr(self, name)}")
        for name, values in (("betas", self.betas), ("average_decay", (self.average_decay,))):
            if not all(0 <= value < 1 for value in values):
                raise InputError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        if self.cuda_graph and self.memory.offload:
            raise InputError("cuda_graph does not go with memory.offload, which waits for the device")
        if self.accumulate < 1:
            raise InputError(f"accumulate must be 1 or more, got {self.accumulate}")


@config_dataclass
class ParallelConfig:
    """Of several processes. ``timeout``: seconds after which one that does not answer counts as lost.

    ``rows``: so many hold an image together, each some of its rows, in training of the GAN (docs/several-machines.md).
    """

    timeout: float = Field(TIMEOUT, gt=0)
    rows: int = Field(1, ge=1, le=FIRST)


@config_dataclass
class PretrainConfig:
    """DAMSM pretraining; the defaults are AttnGAN's for CUB."""

    data: DataConfig = DataConfig()
    rnn: Literal["lstm", "gru"] = "lstm"
    word_channels: int = 256
    embedding_channels: int = 300
    dropout: float = 0.5
    image_encoder: ImageEncoderConfig = ImageEncoderConfig()
    inception_weights: str | None = None
    image_size: int = Field(299, ge=32)
    learning_rate: float = Field(0.002, gt=0)
    learning_rate_decay: float = Field(0.98, gt=0, le=1)
    clip: float = Field(0.25, gt=0)
    gamma1: float = Field(4.0, gt=0)
    gamma2: float = Field(5.0, gt=0)
    gamma3: float = Field(10.0, gt=0)
    loop: LoopConfig = LoopConfig(batch_size=48)
    parallel: ParallelConfig = ParallelConfig()

    def __post_init__(self) -> None:
        if self.parallel.rows > 1:
            raise InputError(
                f"parallel.rows={self.parallel.rows} is for training the GAN (`train`): encoders see images of one "
                "small resolution; leave it out"
            )

    def text_encoder(self, words: int) -> TextEncoderConfig:
        """Of a vocabulary of so many words."""
        return TextEncoderConfig(
            vocabulary_size=words,
            word_channels=self.word_channels,
            embedding_channels=self.embedding_channels,
            rnn=self.rnn,
            dropout=self.dropout,
        )


@config_dataclass
class TrainConfig:
    """GAN training; the defaults are the paper's for CUB birds.

    ``encoders``: folder of a finished pretraining. ``init_from``: a run or weights of a smaller model to grow from.
    """

    encoders: str | None = None
    init_from: str | None = None
    data: DataConfig = DataConfig()
    generator: GeneratorConfig = GeneratorConfig()
    discriminator_channels: int = Field(32, ge=1)
    spectral_norm: Literal["paper", "official", "none"] = "paper"
    batch_norm: bool = False
    step: StepConfig = StepConfig()
    loop: LoopConfig = LoopConfig()
    parallel: ParallelConfig = ParallelConfig()

    def discriminator(self, image_size: int) -> DiscriminatorConfig:
        """Of the images of one resolution."""
        return DiscriminatorConfig(
            image_size=image_size,
            base_channels=self.discriminator_channels,
            sentence_channels=self.generator.word_channels,
            spectral_norm=self.spectral_norm,
            batch_norm=self.batch_norm,
        )


def by_new_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as a file or a run of an earlier version has them, by today's names."""
    return {
        section: {RENAMED.get(section, {}).get(name, name): value for name, value in given.items()}
        if isinstance(given, Mapping)
        else given
        for section, given in values.items()
    }
