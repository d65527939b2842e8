"""Whole models with a batch: what steps, sampling, memory and components are measured on."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.authors.step import AuthorsStep
from dmgan_fast.modules import Discriminator, Generator, GeneratorConfig, ImageEncoder, ImageEncoderConfig, padding_mask
from dmgan_fast.parallel import Processes
from dmgan_fast.runs.config import PretrainConfig, TrainConfig
from dmgan_fast.runs.presets import build_config
from dmgan_fast.training import Batch, StepConfig, TrainStep


@dataclass(frozen=True)
class Setting:
    """A model and a batch; the defaults are the paper's for birds, at a batch of 4."""

    name: str
    train: TrainConfig = field(default_factory=lambda: build_config(TrainConfig))
    batch: int = 4
    encoder: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)

    @property
    def generator(self) -> GeneratorConfig:
        return self.train.generator

    @property
    def config(self) -> StepConfig:
        return self.train.step

    def changed(self, **changes: Any) -> Setting:
        """With other values of ``train``."""
        return replace(self, train=replace(self.train, **changes))

    def narrow(self) -> Setting:
        """The same depth at a width that steps in float64 within seconds."""
        width = 16
        channels = {"base_channels": 4, "word_channels": width, "condition_channels": 8, "noise_channels": 8}
        generator = replace(self.generator, image_sizes=self.generator.image_sizes[:2], **channels)
        encoder = ImageEncoderConfig(kind="compact", channels=width, image_size=64, base_channels=4)
        return replace(self, encoder=encoder).changed(generator=generator, discriminator_channels=4)


def preset(name: str, batch: int) -> Setting:
    """As the preset trains, at another batch; learning rates are the paper's."""
    config = build_config(TrainConfig, preset=name)
    step = replace(StepConfig(), damsm_weight=config.step.damsm_weight)
    title = {"birds": "birds", "coco": "COCO"}.get(name, name)
    encoder = build_config(PretrainConfig, preset=name).image_encoder
    return Setting(f"{title} B{batch}", replace(config, step=step), batch, encoder)


def tiny() -> Setting:
    """The smallest that has every part of a step, to try a command."""
    config = build_config(TrainConfig, values={"data": {"max_words": 4}, "generator": {"image_sizes": [64]}})
    return Setting("tiny B2", config, batch=2).narrow()


BIRDS, COCO, DEMO = preset("birds", 4), preset("coco", 4), preset("demo", 16)


@dataclass
class Models:
    generator: Generator
    discriminators: list[Discriminator]
    encoder: nn.Module | None

    @classmethod
    def build(cls, setting: Setting) -> Models:
        """The same weights at every call; no encoder where the step has no use for it."""
        torch.manual_seed(0)
        encoder = ImageEncoder(setting.encoder).eval().requires_grad_(False) if setting.config.damsm_weight else None
        generator = Generator(setting.generator)
        kinds = map(setting.train.discriminator, setting.generator.image_sizes)
        return cls(generator, [Discriminator(kind) for kind in kinds], encoder)

    def to(self, *where: Any) -> Models:
        """Moves and returns them."""
        for model in filter(None, (self.generator, *self.discriminators, self.encoder)):
            model.to(*where)
        return self

    def copy(self, dtype: torch.dtype = torch.float32) -> Models:
        return copy.deepcopy(self).to(dtype)


def batch_of(
    setting: Setting,
    size: int | None = None,
    dtype: torch.dtype = torch.float32,
    *,
    device: str = "cpu",
    full: bool = False,
    seed: int = 1,
) -> dict[str, Any]:
    """What a step is called with. ``full``: every caption has as many words as fit."""
    draw = torch.Generator().manual_seed(seed)
    size, config, words = size or setting.batch, setting.generator, setting.train.data.max_words

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float32).to(device, dtype)

    lengths = torch.full((size,), words) if full else words - torch.arange(size) % (words // 2)
    batch = Batch(
        images=[normal(size, 3, side, side).clamp(-1, 1) for side in config.image_sizes],
        words=normal(size, config.word_channels, words),
        sentence=normal(size, config.word_channels),
        padding_mask=padding_mask(lengths, words).to(device),
        lengths=lengths.to(device),
        class_ids=torch.arange(size, device=device),
    )
    noise = {"noise": normal(size, config.noise_channels), "eps": normal(size, config.condition_channels)}
    return {"batch": batch} | noise


def tensors_of(inputs: dict[str, Any]) -> list[Tensor]:
    """The tensors among ``batch_of``'s that count as the batch."""
    batch = inputs["batch"]
    return [*batch.images, batch.words, batch.sentence, batch.padding_mask, inputs["noise"], inputs["eps"]]


def ours(models: Models, config: StepConfig, processes: Processes | None = None) -> TrainStep:
    return TrainStep(models.generator, models.discriminators, models.encoder, config, processes=processes)


def theirs(models: Models, config: StepConfig, *, copies: bool = True, precision: str = "fp32") -> AuthorsStep:
    """Trains copies of the models, or the models themselves."""
    assert models.encoder is not None
    parts = (models.generator, models.discriminators, models.encoder)
    return AuthorsStep(*parts, config, copies=copies, precision=precision)
