"""DM-GAN generator: sentence and noise → 64², then one memory-driven refinement for each further resolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmgan_fast.config import config_dataclass, require_positive
from dmgan_fast.contract import require_fits, require_tensor, require_tensors
from dmgan_fast.errors import InputError, require, require_flags
from dmgan_fast.layouts import dense_like
from dmgan_fast.modules.blocks import (
    BatchNormGLU,
    FusedNorms,
    ImageHead,
    ResidualBlock,
    UpBlock,
    init_weights,
    share_batch_statistics,
    split_rows,
)
from dmgan_fast.modules.memory import DynamicMemory, WordAttention
from dmgan_fast.modules.pretrained import PretrainedModel
from dmgan_fast.modules.rematerialise import rematerialise
from dmgan_fast.ops._tiles import MIN_ROWS
from dmgan_fast.parallel import RowSplit

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

FIRST_SIDE = 64
SEED_SIDE = 4  # the initial stage starts from 4 x 4 and doubles four times
Level = Literal["none", "op", "block", "tile", "stage"]
LEVELS: tuple[Level, ...] = get_args(Level)


@config_dataclass
class GeneratorConfig:
    """Settings of a generator; the defaults are the paper's for CUB birds.

    The remaining fields are ablations. ``refinement``: ``"attention"`` is AttnGAN's, without memory and gates.
    ``writing_gate``, ``response_gate``: those of the memory. ``text``: which part of the caption conditions the
    generator; without words every word slot holds the sentence, and what is left out is zero.
    """

    image_sizes: tuple[int, ...] = (64, 128, 256)
    base_channels: int = 64
    word_channels: int = 256
    condition_channels: int = 100
    noise_channels: int = 100
    residual_blocks: int = 2
    mask_mode: Literal["paper", "official"] = "paper"
    detach_image_mean: bool = True
    refinement: Literal["memory", "attention"] = "memory"
    writing_gate: bool = True
    response_gate: bool = True
    text: Literal["both", "words", "sentence", "none"] = "both"

    def __post_init__(self) -> None:
        expected = tuple(FIRST_SIDE * 2**k for k in range(len(self.image_sizes)))
        if not self.image_sizes or self.image_sizes != expected:
            raise InputError(
                f"image_sizes must start at {FIRST_SIDE} and double, as (64, 128, 256), got {self.image_sizes}"
            )
        require_positive(
            self, "base_channels", "word_channels", "condition_channels", "noise_channels", "residual_blocks"
        )


def sizes_up_to(largest: int) -> tuple[int, ...]:
    """``(64, 128, ..., largest)``.

    Raises:
        InputError: if ``largest`` is not 64 times a power of two.
    """
    doublings = (largest // FIRST_SIDE).bit_length() - 1
    if largest < FIRST_SIDE or largest != FIRST_SIDE << doublings:
        raise InputError(
            f"the resolution must be {FIRST_SIDE} times a power of two (64, 128, 256, 512, ...), got {largest}"
        )
    return tuple(FIRST_SIDE << k for k in range(doublings + 1))


class GeneratorOutput(NamedTuple):
    """The output of a generator.

    ``images``: one ``[B, 3, S, S]`` in [-1, 1] for each resolution, smallest first. ``attention`` ``[B, T, H, W]`` and
    ``response_gates`` ``[B, 1, H, W]``: one for each refinement if asked for, else empty; a model without response
    gates has none. ``mu, logvar [B, C]``.
    """

    images: list[Tensor]
    attention: list[Tensor]
    mu: Tensor
    logvar: Tensor
    response_gates: list[Tensor]


class ConditioningAugmentation(nn.Module):
    """Sentence ``[B, D]`` → ``c = mu + exp(logvar / 2) * eps``, with ``mu, logvar [B, C]``."""

    def __init__(self, sentence_channels: int, condition_channels: int) -> None:
        super().__init__()
        self.projection = nn.Linear(sentence_channels, 4 * condition_channels)

    def forward(self, sentence: Tensor, eps: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        mu, logvar = F.glu(self.projection(sentence), dim=1).chunk(2, dim=1)
        if eps is None:
            eps = torch.randn_like(mu)
        return mu + torch.exp(0.5 * logvar) * eps, mu, logvar


class InitialStage(FusedNorms):
    """Condition and noise → ``h [B, C, 64, 64]`` and its mean over pixels ``[B, C]``.

    ``memory_format``: of the first features; what is made of them keeps it.
    """

    memory_format = torch.contiguous_format

    def __init__(self, in_channels: int, base_channels: int) -> None:
        super().__init__()
        self.seed_channels = 16 * base_channels
        features = self.seed_channels * SEED_SIDE**2
        self.projection = nn.Linear(in_channels, 2 * features, bias=False)
        self.norm = BatchNormGLU(2 * features)
        widths = [self.seed_channels >> k for k in range(5)]
        self.up_blocks = nn.ModuleList(UpBlock(i, o) for i, o in pairwise(widths))

    def forward(self, condition: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        x = self.projection(torch.cat((condition, noise), 1))
        h = self.norm(x[:, :, None, None]).reshape(-1, self.seed_channels, SEED_SIDE, SEED_SIDE)
        h = h.contiguous(memory_format=self.memory_format)
        for up_block in self.up_blocks[:-1]:  # type: ignore[union-attr]
            h = up_block(h)
        return self.up_blocks[-1].with_mean(h)  # type: ignore[operator]


class StageOutput(NamedTuple):
    """``h [B, C, 2H, 2W]`` and its mean over pixels ``[B, C]``, which the last stage leaves out; the image; maps."""

    image: Tensor
    h: Tensor | None
    image_mean: Tensor | None
    attention: Tensor | None
    response_gate: Tensor | None


class RefinementStage(nn.Module):
    """Memory read → ``[h', h']`` (``[h, o]`` without a response gate) → residual blocks → up-block → image head.

    ``rematerialise_blocks``: each block keeps its input only; see ``Generator.set_checkpointing``.
    """

    rematerialise_blocks = False

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        channels, mask_mode = config.base_channels, config.mask_mode
        self.memory = (
            WordAttention(channels, config.word_channels, mask_mode=mask_mode)
            if config.refinement == "attention"
            else DynamicMemory(
                channels,
                config.word_channels,
                mask_mode=mask_mode,
                detach_image_mean=config.detach_image_mean,
                writing_gate=config.writing_gate,
                response_gate=config.response_gate,
            )
        )
        # Of what is read: h', which stands for [h', h'], or [h, o].
        self.read_channels = channels if config.refinement == "memory" and config.response_gate else 2 * channels
        self.residual_blocks = nn.ModuleList(ResidualBlock(2 * channels) for _ in range(config.residual_blocks))
        self.up_block = UpBlock(2 * channels, channels)

    def forward(
        self,
        h: Tensor,
        image_mean: Tensor,
        words: Tensor,
        padding_mask: Tensor | None,
        head: ImageHead,
        last: bool,
        return_attention: bool,
    ) -> StageOutput:
        first, *others = self.residual_blocks

        def begin(
            h: Tensor, image_mean: Tensor, words: Tensor, padding_mask: Tensor | None
        ) -> tuple[Tensor, Tensor | None, Tensor | None]:
            x, attention, gate = self.memory(
                h, words, padding_mask, image_mean=image_mean, return_attention=return_attention
            )
            return first(x), attention, gate  # takes h' for [h', h']; without a gate x is [h, o]

        run = rematerialise if self.rematerialise_blocks else _run
        x, attention, gate = run(begin, h, image_mean, words, padding_mask, modules=(first,))
        for block in others:
            x = run(block, x)
        if last:
            return StageOutput(
                run(self.up_block.to_image, x, head, modules=(self.up_block,)), None, None, attention, gate
            )
        h, image_mean = run(self.up_block.with_mean, x, modules=(self.up_block,))
        return StageOutput(head(h), h, image_mean, attention, gate)


def _run(function: Callable[..., Any], *inputs: Any, modules: Sequence[nn.Module] = ()) -> Any:
    """What ``rematerialise`` does, keeping everything."""
    return function(*inputs)


class Generator(PretrainedModel):
    """Generates images of every resolution from a sentence and its words.

    Example:
        >>> generator = Generator(GeneratorConfig(image_sizes=(64, 128)))
        >>> out = generator(noise, sentence, words, padding_mask)  # doctest: +SKIP
        >>> [image.shape[-1] for image in out.images]              # doctest: +SKIP
        [64, 128]
    """

    config_class = GeneratorConfig
    rows: RowSplit | None = None  # see split_rows

    def __init__(self, config: GeneratorConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or GeneratorConfig()
        self.conditioning = ConditioningAugmentation(config.word_channels, config.condition_channels)
        self.initial_stage = InitialStage(config.condition_channels + config.noise_channels, config.base_channels)
        self.stages = nn.ModuleList(RefinementStage(config) for _ in config.image_sizes[1:])
        self.image_heads = nn.ModuleList(ImageHead(config.base_channels) for _ in config.image_sizes)
        self.apply(init_weights)
        self.checkpointing: tuple[Level, ...] = tuple("none" for _ in config.image_sizes)

    def forward(
        self,
        noise: Tensor,
        sentence: Tensor,
        words: Tensor,
        padding_mask: Tensor | None = None,
        *,
        eps: Tensor | None = None,
        return_attention: bool = False,
    ) -> GeneratorOutput:
        """Generate.

        Args:
            noise: ``[B, Z]``.
            sentence: ``[B, D]``.
            words: ``[B, D, T]``, ``T`` words of any number.
            padding_mask: ``[B, T]`` bool, True where a word is padding; None: no padding.
            eps: ``[B, C]`` noise of the conditioning augmentation; None: from PyTorch's global generator.
            return_attention: also return attention and response-gate maps.

        Raises:
            InputError: for shapes, dtypes or devices that do not fit, and for a batch of one in training.
        """
        self.check_inputs(noise, sentence, words, padding_mask, eps)
        require_flags("Generator", return_attention=return_attention)
        sentence, words = self.seen(sentence, words)
        if padding_mask is not None and self.config.mask_mode == "paper":  # what padding holds must not matter
            words = words.masked_fill(padding_mask[:, None], 0)
        condition, mu, logvar = self.conditioning(sentence, eps)
        first, *levels = self.checkpointing
        run = rematerialise if first in ("block", "tile", "stage") else _run
        h, image_mean = run(self.initial_stage, condition, noise)
        if self.rows is not None:
            h = dense_like(h[:, :, self.rows.of(FIRST_SIDE)], h)
        images = [self.image_heads[0](h)]
        attention: list[Tensor] = []
        gates: list[Tensor] = []
        for number, (stage, head, level) in enumerate(zip(self.stages, self.image_heads[1:], levels, strict=True), 1):
            run = rematerialise if level == "stage" else _run
            inputs = (h, image_mean, words, padding_mask, head, number == len(self.stages), return_attention)
            image, h, image_mean, stage_attention, gate = run(stage, *inputs)
            images.append(image)
            attention += [] if stage_attention is None else [stage_attention]
            gates += [] if gate is None else [gate]
        return GeneratorOutput(images, attention, mu, logvar, gates)

    def seen(self, sentence: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """Sentence ``[B, D]`` and words ``[B, D, T]`` as ``config.text`` lets them through."""
        text = self.config.text
        if text == "sentence":
            words = sentence[:, :, None].expand_as(words)
        elif text == "none":
            words = torch.zeros_like(words)
        return (torch.zeros_like(sentence) if text in ("words", "none") else sentence), words

    def split_rows(self, rows: RowSplit, everyone: ProcessGroup) -> None:
        """Generate this process's rows of each image from now on, the next process those that follow.

        All that hold an image are given the same inputs. The initial stage computes all of its small maps on each of
        them. Gradients of parameters add up over ``everyone``, who share a batch's statistics: each process
        differentiates by its own rows, and its part of what ``mu`` and ``logvar`` say.
        """
        self.rows = rows
        for module in (self.stages, self.image_heads):
            split_rows(module, rows.group, everyone)
        share_batch_statistics(self.initial_stage, rows.peers if rows.peers.size() > 1 else None)

    def set_checkpointing(self, levels: Level | Sequence[Level], *, tile_rows: int = 64) -> None:
        """Choose what is saved for backward, for all resolutions or for each: smallest first. Results stay the same.

        ``"none"``: what every op keeps. ``"op"``: results of GLUs inside residual blocks are recomputed, no
        convolution is, but for the native ones of float32 on a CPU. ``"block"``: every block keeps its input only.
        ``"tile"``: that, and blocks run in tiles of ``tile_rows`` rows, so that nothing of a block's full size exists
        at once (``functional.tiled_glu``; sums run over tiles, so results differ by rounding). ``"stage"``: a stage
        keeps its input only. The initial stage knows ``"none"`` and ``"stage"``; ``"block"`` and ``"tile"`` are
        ``"stage"`` there.

        Raises:
            InputError: for an unknown level, not one level per resolution, or too few rows.
        """
        sides = len(self.config.image_sizes)
        chosen: tuple[Level, ...] = tuple(levels for _ in range(sides)) if isinstance(levels, str) else tuple(levels)
        require(
            len(chosen) == sides and set(chosen) <= set(LEVELS),
            lambda: f"set_checkpointing: levels must be one of {', '.join(LEVELS)}, or {sides} of them, got {levels!r}",
        )
        require(
            tile_rows >= MIN_ROWS or "tile" not in chosen,
            lambda: f"set_checkpointing: tile_rows must be at least {MIN_ROWS}, got {tile_rows}",
        )
        self.checkpointing = chosen
        for stage, level in zip(self.stages, chosen[1:], strict=True):
            assert isinstance(stage, RefinementStage)
            stage.rematerialise_blocks = level in ("block", "tile")
            for block in (*stage.residual_blocks, stage.up_block):
                assert isinstance(block, (ResidualBlock, UpBlock))
                block.tile_rows = tile_rows if level == "tile" else None
                block.recompute_glu = level == "op"

    def check_inputs(
        self, noise: Tensor, sentence: Tensor, words: Tensor, padding_mask: Tensor | None, eps: Tensor | None
    ) -> None:
        """Raise ``InputError`` unless ``forward`` can take these."""
        optional: dict[str, Any] = {} if eps is None else {"eps": eps}
        require_tensors("Generator", noise=noise, sentence=sentence, **optional)
        require_tensor("Generator", "words", words)
        config, batch = self.config, noise.shape[0] if noise.dim() else 0
        expected = {"noise": (noise, config.noise_channels), "sentence": (sentence, config.word_channels)}
        if eps is not None:
            expected["eps"] = (eps, config.condition_channels)
        for name, (tensor, channels) in expected.items():
            size, wanted = list(tensor.shape), [batch, channels]
            require(size == wanted, partial("Generator: {} must be {}, got {}".format, name, wanted, size))
        require(
            words.dim() == 3 and tuple(words.shape[:2]) == (batch, config.word_channels) and words.shape[2] > 0,
            lambda: f"Generator: words must be [{batch}, {config.word_channels}, T >= 1], got {list(words.shape)}",
        )
        if padding_mask is not None:
            require_tensor("Generator", "padding_mask", padding_mask, "any")
            require(
                padding_mask.dtype == torch.bool and tuple(padding_mask.shape) == (batch, words.shape[2]),
                lambda: (
                    f"Generator: padding_mask must be bool [{batch}, {words.shape[2]}], "
                    f"got {padding_mask.dtype} {list(padding_mask.shape)}"
                ),
            )
        weight = self.conditioning.projection.weight
        require_fits("Generator", weight, noise=noise, sentence=sentence, words=words)
        if padding_mask is not None:
            require(
                padding_mask.device == weight.device,
                lambda: f"Generator: padding_mask is on {padding_mask.device}, the weights are on {weight.device}",
            )
        require(
            not self.training or batch > 1 or self.initial_stage.norm.sharing is not None,
            "Generator: a batch of one has no batch statistics to train with; use two images or more, or .eval()",
        )


class AttnGenerator(Generator):
    """AttnGAN's generator, the paper's baseline: a ``Generator`` whose refinement is attention.

    The default widths are AttnGAN's for CUB birds. It is saved and loaded as the ``Generator`` that it is.
    """

    def __init__(self, config: GeneratorConfig | None = None) -> None:
        super().__init__(replace(config or GeneratorConfig(base_channels=32), refinement="attention"))
