"""One step of the DAMSM's encoders: images and captions of a batch learn to match (AttnGAN, section 3.2)."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor
from torch.optim import Adam

from dmgan_fast.losses.damsm import damsm_losses
from dmgan_fast.modules import ImageEncoder, TextEncoder
from dmgan_fast.modules.blocks import share_batch_statistics
from dmgan_fast.modules.text_encoder import RowsOfDropout
from dmgan_fast.parallel import GradientSum, Processes
from dmgan_fast.runs.config import PretrainConfig

BETAS = (0.5, 0.999)


class EncoderStep:
    """Owns both encoders' optimiser and takes one step at a time.

    Args:
        text_encoder, image_encoder: what learns.
        config: learning rate, clipping and gammas.
        processes: who takes the step together, each with some rows of the batch; by default all that have joined
            PyTorch's default process group. The first step begins with the weights of process 0, and dropout is as
            PyTorch's global generators have it, which must be alike.
    """

    def __init__(
        self,
        text_encoder: TextEncoder,
        image_encoder: ImageEncoder,
        config: PretrainConfig,
        *,
        processes: Processes | None = None,
    ) -> None:
        self.text_encoder, self.image_encoder, self.config = text_encoder, image_encoder, config
        self.processes = processes or Processes.of()
        learning = [p for p in (*text_encoder.parameters(), *image_encoder.parameters()) if p.requires_grad]
        self.optimizer = Adam(learning, lr=config.learning_rate, betas=BETAS)
        self.gradients: GradientSum | None = None
        if self.processes.group is not None:
            share_batch_statistics(image_encoder, self.processes.group)
            self.gradients = GradientSum(learning, self.processes.group)
            self._aligned = False

    def __call__(
        self, images: Tensor, captions: Tensor, lengths: Tensor, class_ids: Tensor | None, *, epoch: int = 0
    ) -> dict[str, Tensor]:
        """Take one step and return its losses, those of the whole batch, as detached scalar tensors.

        Args:
            images: ``[B, 3, S, S]``; captions: ``[B, T]``; lengths, class_ids: ``[B]``. Of several processes, this
                one's rows.
            epoch: the learning rate falls with it.
        """
        config, device = self.config, images.device
        self.text_encoder.train()
        self.image_encoder.train()
        for group in self.optimizer.param_groups:
            group["lr"] = max(config.learning_rate / 10, config.learning_rate * config.learning_rate_decay**epoch)
        self.optimizer.zero_grad(set_to_none=True)
        share = self.processes.share(
            len(captions), **{"the words T of a batch": captions.shape[1], "class_ids": class_ids is not None}
        )
        if share is not None:
            self._begin(share.rows.start, share.rows.stop, share.total)
        regions, codes = self.image_encoder(images)
        words, sentences = self.text_encoder(captions, lengths)
        gammas = (config.gamma1, config.gamma2, config.gamma3)
        losses = damsm_losses(regions, codes, sentences, words, lengths.to(device), class_ids, *gammas, share)
        total = losses["words"] + losses["sentence"]
        with self.gradients.last_backward() if self.gradients else nullcontext():
            total.backward()
        if self.gradients:
            self.gradients.finish()
        torch.nn.utils.clip_grad_norm_(self.text_encoder.parameters(), config.clip)  # embedding too, as the authors
        self.optimizer.step()
        return {name: loss.detach() for name, loss in (losses | {"total": total}).items()}

    def _begin(self, first: int, last: int, total: int) -> None:
        """Of several processes, with its rows of the batch."""
        if not self._aligned:
            self.processes.align((self.text_encoder, self.image_encoder))
            self._aligned = True
        for module in self.text_encoder.modules():
            if isinstance(module, RowsOfDropout):
                module.rows = (first, last, total)
