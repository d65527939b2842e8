"""DAMSM pretraining: text and image encoders learn to match (AttnGAN, section 3.2)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from torch.optim import Adam
from torchvision.utils import save_image

from dmgan_fast.data import CaptionedPictures, PictureBatch, make_loader, open_dataset
from dmgan_fast.losses.damsm import damsm_losses
from dmgan_fast.modules import ImageEncoder, TextEncoder, TextEncoderConfig
from dmgan_fast.training.config import PretrainConfig
from dmgan_fast.training.engine import pick_device, run
from dmgan_fast.training.weights import save_bundle

BETAS = (0.5, 0.999)
RETRIEVAL_CANDIDATES = 100


class DAMSMTask:
    """Both encoders and their optimiser."""

    kind = "damsm"

    def __init__(self, config: PretrainConfig, dataset: CaptionedPictures, held_out: CaptionedPictures) -> None:
        self.config = config
        self.device = pick_device(config.loop.device)
        self.vocabulary, self.held_out = dataset.vocabulary, held_out
        torch.manual_seed(config.loop.seed)
        self.text_encoder = TextEncoder(
            TextEncoderConfig(
                vocabulary_size=len(dataset.vocabulary),
                word_channels=config.word_channels,
                embedding_channels=config.embedding_channels,
                rnn=config.rnn,
                dropout=config.dropout,
            )
        ).to(self.device)
        self.image_encoder = ImageEncoder(config.image_encoder).to(self.device)
        if config.image_encoder.kind == "inception":
            self.image_encoder.load_inception(config.inception_weights)
        learning = [*self.text_encoder.parameters(), *self.image_encoder.parameters()]
        self.optimizer = Adam([p for p in learning if p.requires_grad], lr=config.learning_rate, betas=BETAS)

    def step(self, batch: PictureBatch, epoch: int) -> dict[str, Tensor]:
        config = self.config
        self.text_encoder.train()
        self.image_encoder.train()
        for group in self.optimizer.param_groups:
            group["lr"] = max(config.learning_rate / 10, config.learning_rate * config.learning_rate_decay**epoch)
        self.optimizer.zero_grad(set_to_none=True)
        regions, codes = self.image_encoder(batch.images[-1].to(self.device, non_blocking=True))
        words, sentences = self.text_encoder(batch.captions.to(self.device), batch.lengths)
        lengths, class_ids = batch.lengths.to(self.device), batch.class_ids.to(self.device)
        gammas = (config.gamma1, config.gamma2, config.gamma3)
        losses = damsm_losses(regions, codes, sentences, words, lengths, class_ids, *gammas)
        total = losses["words"] + losses["sentence"]
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.text_encoder.rnn.parameters(), config.clip)
        self.optimizer.step()
        return {name: loss.detach() for name, loss in (losses | {"total": total}).items()}

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

    def sample(self, file: Path) -> None:
        """Pictures of held-out captions by their score: the true one first, then the best matches."""
        file.parent.mkdir(parents=True, exist_ok=True)
        images, codes, sentences = self._held_out()
        scores = torch.nn.functional.normalize(sentences) @ torch.nn.functional.normalize(codes).t()
        rows = [images[[k, *scores[k].topk(7).indices.tolist()]] for k in range(min(6, len(images)))]
        save_image(torch.cat(rows) / 2 + 0.5, file, nrow=8)

    def retrieval(self) -> float:
        """Share of held-out captions whose own picture scores best among 100 (or all, if fewer), by sentence."""
        _, codes, sentences = self._held_out()
        codes, sentences = (torch.nn.functional.normalize(x) for x in (codes, sentences))
        found = [
            (
                sentences[k]
                @ codes[[k, *((k + j) % len(codes) for j in range(1, min(RETRIEVAL_CANDIDATES, len(codes))))]].t()
            )
            .argmax()
            .eq(0)
            for k in range(len(codes))
        ]
        return float(torch.stack(found).float().mean())

    @torch.no_grad()
    def _held_out(self) -> tuple[Tensor, Tensor, Tensor]:
        self.text_encoder.eval()
        self.image_encoder.eval()
        images, codes, sentences = [], [], []
        for batch in make_loader(self.held_out, min(32, len(self.held_out))):
            images.append(batch.images[-1])
            codes.append(self.image_encoder(batch.images[-1].to(self.device))[1])
            sentences.append(self.text_encoder(batch.captions.to(self.device), batch.lengths)[1])
        return torch.cat(images), torch.cat(codes), torch.cat(sentences)

    def save_weights(self, folder: Path, step: int) -> None:
        card = (
            f"DAMSM encoders trained for {step} steps of {self.config.loop.batch_size} on "
            f"{self.config.data.source!r}.\n\nRetrieval of held-out pictures by their caption, among "
            f"{min(RETRIEVAL_CANDIDATES, len(self.held_out))}: {100 * self.retrieval():.1f} % right "
            f"(chance: {100 / min(RETRIEVAL_CANDIDATES, len(self.held_out)):.1f} %).\n"
        )
        save_bundle(
            folder,
            vocabulary=self.vocabulary,
            card=card,
            text_encoder=self.text_encoder,
            image_encoder=self.image_encoder,
        )


def pretrain(config: PretrainConfig, out: Path, *, resume: bool = False, console: Console | None = None) -> None:
    """Train the encoders; the result is in ``out/weights``. See ``engine.run`` for what else ``out`` gets."""
    settings: dict[str, Any] = {
        "image_sizes": (config.image_size,),
        "max_words": config.data.max_words,
        "seed": config.loop.seed,
    }
    dataset = open_dataset(config.data.source, "train", **settings)
    held_out = open_dataset(config.data.source, "test", vocabulary=dataset.vocabulary, **settings)
    run(DAMSMTask(config, dataset, held_out), dataset, out, resume=resume, console=console)
