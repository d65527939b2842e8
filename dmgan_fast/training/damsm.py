"""DAMSM pretraining: text and image encoders learn to match (AttnGAN, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch import Tensor
from torch.nn.functional import normalize

from dmgan_fast.data import CaptionedImages, ImageBatch
from dmgan_fast.data.loader import loader_in_order
from dmgan_fast.devices import pick_device
from dmgan_fast.images import save_rows
from dmgan_fast.losses.damsm import damsm_losses
from dmgan_fast.metrics.retrieval import r_precision
from dmgan_fast.modules import ImageEncoder, TextEncoder
from dmgan_fast.parallel import Processes
from dmgan_fast.runs.config import PretrainConfig
from dmgan_fast.sampling.bundle import save_bundle
from dmgan_fast.training.encoders import EncoderStep
from dmgan_fast.training.engine import check_start, open_data, run_together
from dmgan_fast.training.identity import data_fingerprint
from dmgan_fast.training.locks import only_writer

CANDIDATES = 100


class DAMSMTask:
    """Both encoders and their optimiser."""

    kind = "damsm"

    def __init__(
        self,
        config: PretrainConfig,
        dataset: CaptionedImages,
        held_out: CaptionedImages,
        processes: Processes | None = None,
    ) -> None:
        self.config, self.processes = config, processes or Processes()
        self.device = pick_device(config.loop.device)
        self.vocabulary, self.held_out = dataset.vocabulary, held_out
        torch.manual_seed(config.loop.seed)
        self.fingerprint = data_fingerprint(dataset)
        self.text_encoder = TextEncoder(config.text_encoder(len(dataset.vocabulary))).to(self.device)
        self.image_encoder = ImageEncoder(config.image_encoder).to(self.device)
        if config.image_encoder.kind == "inception":
            self.image_encoder.load_inception(config.inception_weights)
        self.validation: _Validation | None = None  # of the current weights
        self.encoder_step = EncoderStep(self.text_encoder, self.image_encoder, config, processes=self.processes)
        self.optimizer = self.encoder_step.optimizer

    def step(self, batch: ImageBatch, epoch: int) -> dict[str, Tensor]:
        images = batch.images[-1].to(self.device, non_blocking=True)
        captions, class_ids = batch.captions.to(self.device), batch.class_ids.to(self.device)
        self.validation = None
        return self.encoder_step(images, captions, batch.lengths, class_ids, epoch=epoch)

    def state_dict(self) -> dict[str, Any]:
        return {
            "text_encoder": self.text_encoder.state_dict(),
            "image_encoder": self.image_encoder.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.text_encoder.load_state_dict(state["text_encoder"])
        self.image_encoder.load_state_dict(state["image_encoder"])
        self.optimizer.load_state_dict(state["optimizer"])

    def sample(self, file: Path) -> dict[str, float]:
        """Images of held-out captions by their score, the true one first; what ``validate`` measures."""
        file.parent.mkdir(parents=True, exist_ok=True)
        found = self.validate()
        images, scores = found.images, normalize(found.sentences) @ normalize(found.codes).t()
        rows = [images[[k, *scores[k].topk(min(7, len(images))).indices.tolist()]] for k in range(min(6, len(images)))]
        save_rows(rows, file)
        return found.measures

    @torch.no_grad()
    def validate(self) -> _Validation:
        """Losses on held-out images, and retrieval among up to 100 candidates of other classes, both ways."""
        if self.validation is not None:
            return self.validation
        self.text_encoder.eval()
        self.image_encoder.eval()
        images, codes, sentences, class_ids, losses = [], [], [], [], []
        gammas = (self.config.gamma1, self.config.gamma2, self.config.gamma3)
        size = min(self.config.loop.batch_size, len(self.held_out))
        loader = loader_in_order(self.held_out, size, workers=self.config.data.workers or 0, device=self.device)
        for batch in loader:
            regions, code = self.image_encoder(batch.images[-1].to(self.device))
            words, sentence = self.text_encoder(batch.captions.to(self.device), batch.lengths)
            lengths, ids = batch.lengths.to(self.device), batch.class_ids.to(self.device)
            if len(code) == size:  # the losses of a smaller batch are smaller
                parts = damsm_losses(regions, code, sentence, words, lengths, ids, *gammas)
                losses.append(torch.stack([parts["words"], parts["sentence"]]))
            images.append(batch.images[-1].cpu())
            codes.append(code.cpu())
            sentences.append(sentence.cpu())
            class_ids.append(batch.class_ids)
        found, said, classes = torch.cat(codes), torch.cat(sentences), torch.cat(class_ids)
        others = len(classes) - int(classes.unique(return_counts=True)[1].max())  # of other classes, at the least
        candidates = min(CANDIDATES, others + 1)
        words_mean, sentence_mean = torch.stack(losses).mean(0).tolist()
        measures = {"words": words_mean, "sentence": sentence_mean}
        if candidates > 1:
            settings: dict[str, Any] = {"candidates": candidates, "folds": 1, "class_ids": classes}
            measures["image_to_caption"] = r_precision(found, said, **settings)[0]
            measures["caption_to_image"] = r_precision(said, found, **settings)[0]
            measures["chance"] = 100 / candidates
        self.validation = _Validation(torch.cat(images), found, said, measures)
        return self.validation

    def gates(self) -> dict[str, float]:
        """None: encoders have no memory."""
        return {}

    def measure(self) -> dict[str, float]:
        """Nothing beyond what every sample measures."""
        return {}

    def score(self, found: dict[str, float]) -> float | None:
        """By the losses on held-out images."""
        return -(found["words"] + found["sentence"]) if {"words", "sentence"} <= found.keys() else None

    def fingerprints(self) -> dict[str, str]:
        return {"data": self.fingerprint, "vocabulary": self.vocabulary.fingerprint}

    def weights(self, step: int) -> Callable[[Path], None]:
        """What writes the encoders as they are now, with what they reach on held-out images."""
        found = self.validate().measures
        size, source = self.config.loop.batch_size, self.config.data.source
        card = f"DAMSM encoders trained for {step} steps of {size} on {source!r}.\n"
        if "chance" in found:
            card += (
                f"\nHeld-out images: {found['image_to_caption']:.1f} % find their caption among "
                f"{round(100 / found['chance'])} (R-precision), {found['caption_to_image']:.1f} % of captions their "
                f"image; chance is {found['chance']:.1f} %.\n"
            )
        return partial(
            save_bundle,
            vocabulary=self.vocabulary,
            card=card,
            text_encoder=deepcopy(self.text_encoder),
            image_encoder=deepcopy(self.image_encoder),
        )


class _Validation(NamedTuple):
    """Held-out images ``[N, 3, S, S]``, codes and sentences ``[N, D]``, and what was measured, in per cent."""

    images: Tensor
    codes: Tensor
    sentences: Tensor
    measures: dict[str, float]


def pretrain(config: PretrainConfig, out: Path, *, resume: bool = False, console: Console | None = None) -> None:
    """Train the encoders; the result is in ``out/weights``. See ``engine.run`` for what else ``out`` gets.

    Under ``torchrun`` its processes train them together.
    """
    run_together(_prepare, config, out, resume=resume, console=console)


def _prepare(
    config: PretrainConfig, out: Path, resume: bool, processes: Processes, held: ExitStack, console: Console | None
) -> tuple[DAMSMTask, CaptionedImages]:
    """What is trained, on what; the first process holds the lock on ``out`` while ``held`` is open."""
    check_start(out, resume, config, processes)
    dataset, held_out = open_data(config, (config.image_size,), processes, console)
    if processes.first:
        held.enter_context(only_writer(out))
    return DAMSMTask(config, dataset, held_out, processes), dataset
