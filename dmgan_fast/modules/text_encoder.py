"""Text encoder (DAMSM): embedding → dropout → bidirectional LSTM or GRU → words and sentence."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from dmgan_fast.config import config_dataclass, require_positive
from dmgan_fast.contract import require_tensors
from dmgan_fast.errors import InputError, require
from dmgan_fast.modules.pretrained import PretrainedModel

EMBEDDING_RANGE = 0.1


@config_dataclass
class TextEncoderConfig:
    """Settings of a text encoder; the defaults are the paper's. ``word_channels`` holds both directions together."""

    vocabulary_size: int
    word_channels: int = 256
    embedding_channels: int = 300
    rnn: Literal["lstm", "gru"] = "lstm"
    layers: int = 1
    dropout: float = 0.5

    def __post_init__(self) -> None:
        require_positive(self, "vocabulary_size", "word_channels", "embedding_channels", "layers")
        if self.word_channels % 2:
            raise InputError(f"word_channels must be even (two directions), got {self.word_channels}")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout must be in [0, 1), got {self.dropout}")


class RowsOfDropout(nn.Dropout):
    """Dropout of some rows of a batch, by the numbers that are generated for the whole of it.

    ``rows``: first, last and how many rows the batch has; None: it is all here.
    """

    rows: tuple[int, int, int] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.rows is None or not self.training:
            return super().forward(x)
        first, last, total = self.rows
        return x * super().forward(x.new_ones((total, *x.shape[1:])))[first:last]


class TextEncoder(PretrainedModel):
    """Captions → word features and a sentence feature."""

    config_class = TextEncoderConfig

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary_size, config.embedding_channels)
        nn.init.uniform_(self.embedding.weight, -EMBEDDING_RANGE, EMBEDDING_RANGE)
        self.dropout = RowsOfDropout(config.dropout)
        rnn = {"lstm": nn.LSTM, "gru": nn.GRU}[config.rnn]
        self.rnn = rnn(
            config.embedding_channels,
            config.word_channels // 2,
            config.layers,
            batch_first=True,
            bidirectional=True,
            dropout=config.dropout if config.layers > 1 else 0.0,
        )

    def forward(self, captions: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode.

        Args:
            captions: ``[B, T]`` int64 word indices; what stands beyond a caption's length is not looked at.
            lengths: ``[B]`` int64, each in ``1..T``. On the CPU it costs no device sync.

        Returns:
            words ``[B, D, T]``, zero at padding, and sentence ``[B, D]`` (the last layer's final states).

        Raises:
            InputError: for a caption without words, a length beyond ``T``, shapes that do not fit, or (on the CPU) an
                index that is no word's.
        """
        require_tensors("TextEncoder", "integers", captions=captions, lengths=lengths)
        require(captions.dim() == 2, lambda: f"TextEncoder: captions must be [B, T], got {list(captions.shape)}")
        require(
            tuple(lengths.shape) == (captions.shape[0],),
            lambda: f"TextEncoder: lengths must be [{captions.shape[0]}], got {list(lengths.shape)}",
        )
        lengths = lengths.cpu()
        shortest, longest = int(lengths.min()), int(lengths.max())
        require(
            shortest >= 1 and longest <= captions.shape[1],
            lambda: f"TextEncoder: lengths must lie in 1..{captions.shape[1]}, got {lengths.tolist()}",
        )
        weight = self.embedding.weight
        require(
            captions.device == weight.device,
            lambda: f"TextEncoder: captions are on {captions.device}, the weights are on {weight.device}",
        )
        if captions.device.type == "cpu":  # elsewhere it would wait for the device
            known, largest = self.config.vocabulary_size, int(captions.max())
            require(
                int(captions.min()) >= 0 and largest < known,
                lambda: (
                    f"TextEncoder: captions must hold indices in 0..{known - 1}, its words, got {largest}; "
                    "are they of the vocabulary that it was trained with?"
                ),
            )
        embedded = self.dropout(self.embedding(captions.long()))
        packed = pack_padded_sequence(embedded, lengths.long(), batch_first=True, enforce_sorted=False)
        output, state = self.rnn(packed)
        words, _ = pad_packed_sequence(output, batch_first=True, total_length=captions.shape[1])
        hidden = state[0] if isinstance(state, tuple) else state
        return words.transpose(1, 2), torch.cat((hidden[-2], hidden[-1]), 1)


def padding_mask(lengths: Tensor, words: int) -> Tensor:
    """``[B, T]`` bool, True at padding, for lengths ``[B]`` and ``words = T``."""
    return torch.arange(words, device=lengths.device) >= lengths[:, None]
