"""GAN training on top of pretrained DAMSM encoders."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from dmgan_fast.data import CaptionedImages, ImageBatch, make_loader
from dmgan_fast.devices import pick_device
from dmgan_fast.errors import InputError
from dmgan_fast.images import save_rows
from dmgan_fast.modules import Discriminator, Generator, padding_mask
from dmgan_fast.parallel import Processes
from dmgan_fast.runs.config import TrainConfig
from dmgan_fast.sampling.bundle import Bundle, check_words, open_bundle, save_bundle
from dmgan_fast.sampling.gates import writing_gates
from dmgan_fast.training.batch import Batch
from dmgan_fast.training.engine import check_start, open_data, run_together
from dmgan_fast.training.growth import grow_from
from dmgan_fast.training.held_out import HeldOutMeasures, score
from dmgan_fast.training.identity import data_fingerprint, encoders_fingerprint
from dmgan_fast.training.locks import only_writer
from dmgan_fast.training.step import TrainStep

SAMPLES = 24


class GANTask:
    """Generator, discriminators, and the noise they are trained with."""

    kind = "gan"

    def __init__(
        self,
        config: TrainConfig,
        encoders: Path | Bundle,
        dataset: CaptionedImages,
        held_out: CaptionedImages,
        processes: Processes | None = None,
    ) -> None:
        self.config, self.processes = config, processes or Processes()
        self.device = pick_device(config.loop.device)
        self.vocabulary, self.held_out = dataset.vocabulary, held_out
        bundle = open_bundle(encoders, "text_encoder", "image_encoder")
        self.text_encoder = bundle.text_encoder(str(self.device)).requires_grad_(False)
        image_encoder = bundle.image_encoder(str(self.device))
        check_words(self.vocabulary, {"text_encoder": self.text_encoder, "image_encoder": image_encoder}, str(bundle))
        words = self.vocabulary.fingerprint
        self.content = {
            "data": data_fingerprint(dataset),
            "encoders": encoders_fingerprint((self.text_encoder, image_encoder), words),
            "vocabulary": words,
        }
        channels = self.text_encoder.config.word_channels
        if channels != config.generator.word_channels:
            raise InputError(
                f"generator.word_channels must be the text encoder's {channels}, got {config.generator.word_channels}"
            )
        torch.manual_seed(config.loop.seed)
        generator = Generator(config.generator).to(self.device)
        discriminators = [
            Discriminator(config.discriminator(side)).to(self.device) for side in config.generator.image_sizes
        ]
        self.train_step = TrainStep(generator, discriminators, image_encoder, config.step, processes=self.processes)
        average = self.train_step.average.module
        for model in (generator, *discriminators, average):
            model.vocabulary_fingerprint = words  # type: ignore[assignment]
        encoder = self.train_step.image_encoder
        assert encoder is not None
        self.held_out_measures = HeldOutMeasures(
            held_out,
            self.encode,
            encoder,
            images=config.loop.measure_images,
            at_once=self.at_once,
            seed=config.loop.seed,
        )
        self.noise = torch.Generator().manual_seed(config.loop.seed)

    @property
    def at_once(self) -> int:
        """Images that are generated at a time, beside training."""
        return self.config.step.memory.micro_batch or self.config.loop.batch_size

    def step(self, batch: ImageBatch, epoch: int) -> dict[str, Tensor]:
        model, size = self.config.generator, len(batch.captions)
        if self.processes.size > 1:
            size = self.config.loop.batch_size
        noise = torch.randn(size, model.noise_channels, generator=self.noise)
        eps = torch.randn(size, model.condition_channels, generator=self.noise)
        if self.processes.size > 1:  # all sample for the whole batch, so that it is the same on any number of processes
            rows = self.processes.part(size)
            noise, eps = noise[rows.start : rows.stop], eps[rows.start : rows.stop]
        if self.processes.rows is not None:
            batch = batch._replace(images=self.processes.rows.own(batch.images))
        return self.train_step(self.encode(batch), noise=noise.to(self.device), eps=eps.to(self.device))

    @torch.no_grad()
    def encode(self, batch: ImageBatch) -> Batch:
        """Images and encoded captions on the device."""
        words, sentence = self.text_encoder(batch.captions.to(self.device, non_blocking=True), batch.lengths)
        return Batch(
            images=[image.to(self.device, non_blocking=True) for image in batch.images],
            words=words,
            sentence=sentence,
            padding_mask=padding_mask(batch.lengths, batch.captions.shape[1]).to(self.device),
            lengths=batch.lengths.to(self.device),
            class_ids=batch.class_ids.to(self.device),
        )

    def state_dict(self) -> dict[str, Any]:
        return {"train_step": self.train_step.state_dict(), "noise": self.noise.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.train_step.load_state_dict(state["train_step"])
        self.noise.set_state(state["noise"])
        rates = self.config.step
        self.train_step.set_learning_rates(rates.generator_learning_rate, rates.discriminator_learning_rate)

    @torch.no_grad()
    def sample(self, file: Path) -> dict[str, float]:
        """Held-out captions: a row of real images, then what the averaged generator generates, for three rows."""
        file.parent.mkdir(parents=True, exist_ok=True)
        encoded, noise, eps = self._fixed(SAMPLES)
        inputs = (noise, encoded.sentence, encoded.words, encoded.padding_mask, eps)
        generated = torch.cat(
            [
                self.train_step.average.module(*part[:-1], eps=part[-1]).images[-1].cpu()
                for part in zip(*(x.split(self.at_once) for x in inputs), strict=True)
            ]
        )
        rows = []
        for start in range(0, len(noise), 8):
            rows += [encoded.images[-1][start : start + 8].cpu(), generated[start : start + 8]]
        save_rows(rows, file)
        return {}

    @torch.no_grad()
    def gates(self) -> dict[str, float]:
        """Means of both gates at each refinement, over held-out captions."""
        average = self.train_step.average.module
        assert isinstance(average, Generator)
        encoded, noise, eps = self._fixed(min(SAMPLES, self.at_once))
        inputs = (noise, encoded.sentence, encoded.words, encoded.padding_mask)
        with writing_gates(average) as written:
            response = average(*inputs, eps=eps, return_attention=True).response_gates
        found = {f"writing_gate_{k}": float(gate.nanmean()) for k, gate in enumerate(written, start=1)}
        return found | {f"response_gate_{k}": float(gate.mean()) for k, gate in enumerate(response, start=1)}

    def _fixed(self, most: int) -> tuple[Batch, Tensor, Tensor]:
        """The first held-out captions, ``most`` or fewer, encoded, with noise and eps that are always the same."""
        batch = next(iter(make_loader(self.held_out, min(most, len(self.held_out)))))
        fixed = torch.Generator().manual_seed(self.config.loop.seed)
        sizes = (self.config.generator.noise_channels, self.config.generator.condition_channels)
        noise, eps = (torch.randn(len(batch.captions), n, generator=fixed).to(self.device) for n in sizes)
        return self.encode(batch), noise, eps

    def measure(self) -> dict[str, float]:
        """Held-out captions generated by the averaged generator, judged by the encoders."""
        average = self.train_step.average.module
        assert isinstance(average, Generator)
        return self.held_out_measures.measure(average)

    def score(self, found: dict[str, float]) -> float | None:
        return score(found, self.config.loop.best_by)

    def fingerprints(self) -> dict[str, str]:
        return self.content

    def weights(self, step: int) -> Callable[[Path], None]:
        """What writes the averaged generator as it is now, with its text encoder."""
        loop, sizes = self.config.loop, self.config.generator.image_sizes
        card = (
            f"DM-GAN generator (average of its weights) for images of {', '.join(map(str, sizes))}, with its text "
            f"encoder, trained for {step} steps of {loop.batch_size} images on {self.config.data.source!r}.\n"
        )
        return partial(
            save_bundle,
            vocabulary=self.vocabulary,
            card=card,
            generator=deepcopy(self.train_step.average.module),  # type: ignore[arg-type]
            text_encoder=self.text_encoder,  # nobody changes it
        )


def train(config: TrainConfig, out: Path, *, resume: bool = False, console: Console | None = None) -> None:
    """Train a GAN; the result is in ``out/weights``. Under ``torchrun`` its processes train it together.

    Args:
        config: what, with which encoders, and how long.
        out: see ``engine.run``.
        resume: resume from the latest checkpoint in ``out``.
    """
    run_together(_prepare, config, out, resume=resume, console=console)


def _prepare(
    config: TrainConfig, out: Path, resume: bool, processes: Processes, held: ExitStack, console: Console | None
) -> tuple[GANTask, CaptionedImages]:
    """What is trained, on what; the first process holds the lock on ``out`` while ``held`` is open."""
    check_start(out, resume, config, processes)
    if config.encoders is None:
        raise InputError(
            "encoders: the folder of a finished pretraining is needed (`dmgan-fast pretrain`, then --damsm)"
        )
    bundle = open_bundle(config.encoders, "text_encoder", "image_encoder")
    options: dict[str, Any] = {"matches": config.step.damsm_weight > 0, "vocabulary": bundle.vocabulary}
    data = open_data(config, config.generator.image_sizes, processes, console, **options)
    if processes.first:
        held.enter_context(only_writer(out))
    task = GANTask(config, bundle, *data, processes)
    if config.init_from is not None and not resume:
        grow_from(task.train_step, config.init_from)
    return task, data[0]
