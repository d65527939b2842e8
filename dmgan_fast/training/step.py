"""One training step of DM-GAN: each discriminator in turn, then the generator, then the average of its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from dmgan_fast.config import config_dataclass
from dmgan_fast.errors import InputError
from dmgan_fast.losses import conditioning_loss, discriminator_loss, generator_loss
from dmgan_fast.modules import Discriminator, Generator
from dmgan_fast.training.average import WeightAverage


@config_dataclass
class StepConfig:
    """Settings of a step; the defaults are the paper's for CUB birds. ``damsm_weight``: the paper's lambda."""

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


@dataclass
class Batch:
    """What a step learns from, all on one device.

    ``images``: one ``[B, 3, S, S]`` in [-1, 1] for each side, smallest first; ``words [B, D, T]``,
    ``sentence [B, D]``, ``padding_mask [B, T]`` (True: padding), ``lengths [B]``, ``class_ids [B]`` or None.
    """

    images: Sequence[Tensor]
    words: Tensor
    sentence: Tensor
    padding_mask: Tensor
    lengths: Tensor
    class_ids: Tensor | None = None

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """A copy on ``device``."""

        def move(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.to(device, non_blocking=non_blocking)
            return value if value is None else [move(item) for item in value]

        return Batch(**{field.name: move(getattr(self, field.name)) for field in fields(self)})


class TrainStep:
    """Owns the optimisers and the average of a GAN, and takes one step at a time.

    Order of operations as in the authors' trainer: draw; for each side update its discriminator on the real and the
    detached drawn pictures; update the generator through the updated discriminators; average its weights.
    Weights of the discriminators get no gradient in the generator's part. No host sync.

    Args:
        generator: in training mode.
        discriminators: one for each of the generator's sides, smallest first.
        image_encoder: frozen DAMSM encoder, called as ``image_encoder(images) -> (regions, code)``; None only with
            ``damsm_weight = 0``.
        config: learning rates, weights of the losses, average.

    Raises:
        InputError: if the discriminators do not match the generator's sides, or the image encoder is missing.
    """

    def __init__(
        self,
        generator: Generator,
        discriminators: Sequence[Discriminator],
        image_encoder: nn.Module | None,
        config: StepConfig | None = None,
    ) -> None:
        config = config or StepConfig()
        sides = tuple(d.config.image_size for d in discriminators)
        if sides != generator.config.image_sizes:
            raise InputError(
                f"TrainStep: discriminators must be for sides {generator.config.image_sizes}, in order, got {sides}"
            )
        if image_encoder is None and config.damsm_weight > 0:
            raise InputError("TrainStep: image_encoder may be None only with damsm_weight = 0")
        self.config = config
        self.generator = generator
        self.discriminators: Sequence[Discriminator] = discriminators
        self.image_encoder = image_encoder.eval().requires_grad_(False) if image_encoder is not None else None
        self.average = WeightAverage(generator, config.average_decay, buffers=config.average_buffers)
        self.generator_optimizer = Adam(generator.parameters(), lr=config.generator_learning_rate, betas=config.betas)
        self.discriminator_optimizers = [
            Adam(d.parameters(), lr=config.discriminator_learning_rate, betas=config.betas) for d in discriminators
        ]

    def __call__(self, batch: Batch, *, noise: Tensor | None = None, eps: Tensor | None = None) -> dict[str, Tensor]:
        """Take one step and return its losses as detached scalar tensors.

        Args:
            batch: pictures and encoded captions.
            noise: ``[B, Z]``; None draws it from PyTorch's global generator.
            eps: ``[B, C]`` of the conditioning augmentation; likewise.

        Raises:
            InputError: if the batch does not fit the models.
        """
        self._check(batch)
        if noise is None:
            noise = torch.randn(
                len(batch.sentence),
                self.generator.config.noise_channels,
                device=batch.sentence.device,
                dtype=batch.sentence.dtype,
            )
        drawn = self.generator(noise, batch.sentence, batch.words, batch.padding_mask, eps=eps)
        losses: dict[str, Tensor] = {}
        for discriminator, optimizer, real, fake in zip(
            self.discriminators, self.discriminator_optimizers, batch.images, drawn.images, strict=True
        ):
            optimizer.zero_grad(set_to_none=True)
            loss = discriminator_loss(discriminator, real, fake.detach(), batch.sentence)
            loss.backward()
            optimizer.step()
            losses[f"discriminator_{fake.shape[-1]}"] = loss.detach()

        self.generator_optimizer.zero_grad(set_to_none=True)
        self._learn(False)
        try:
            total, parts = generator_loss(
                self.discriminators,
                drawn.images,
                batch.sentence,
                image_encoder=self.image_encoder,
                words=batch.words,
                lengths=batch.lengths,
                class_ids=batch.class_ids,
                damsm_weight=self.config.damsm_weight,
                gamma1=self.config.gamma1,
                gamma2=self.config.gamma2,
                gamma3=self.config.gamma3,
            )
            conditioning = conditioning_loss(drawn.mu, drawn.logvar)
            total = total + self.config.conditioning_weight * conditioning
            total.backward()
        finally:
            self._learn(True)
        self.generator_optimizer.step()
        self.average.update(self.generator)
        return losses | parts | {"conditioning": conditioning.detach(), "generator": total.detach()}

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimisers and average: all that the next step depends on but the batch and the noise."""
        return {
            "generator": self.generator.state_dict(),
            "discriminators": [d.state_dict() for d in self.discriminators],
            "average": self.average.state_dict(),
            "generator_optimizer": self.generator_optimizer.state_dict(),
            "discriminator_optimizers": [optimizer.state_dict() for optimizer in self.discriminator_optimizers],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` gave."""
        self.generator.load_state_dict(state["generator"])
        for discriminator, values in zip(self.discriminators, state["discriminators"], strict=True):
            discriminator.load_state_dict(values)
        self.average.load_state_dict(state["average"])
        self.generator_optimizer.load_state_dict(state["generator_optimizer"])
        for optimizer, values in zip(self.discriminator_optimizers, state["discriminator_optimizers"], strict=True):
            optimizer.load_state_dict(values)

    def _learn(self, learn: bool) -> None:
        for discriminator in self.discriminators:
            discriminator.requires_grad_(learn)

    def _check(self, batch: Batch) -> None:
        size = len(batch.sentence)
        expected = [(size, 3, side, side) for side in self.generator.config.image_sizes]
        given = [tuple(image.shape) for image in batch.images]
        if given != expected:
            raise InputError(f"TrainStep: batch.images must be {expected}, got {given}")
        for name in ("lengths", "class_ids"):
            value = getattr(batch, name)
            if value is not None and tuple(value.shape) != (size,):
                raise InputError(f"TrainStep: batch.{name} must be [{size}], got {list(value.shape)}")
