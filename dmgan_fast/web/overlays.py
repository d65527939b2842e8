"""What the memory did at each refinement, as layers to lay over an image and as shares."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from dmgan_fast.images import relative
from dmgan_fast.sampling.sampler import Sample

RED, BLUE = (217, 38, 26), (24, 84, 204)  # attention; response gate
STRONGEST = 0.85  # opacity of a layer where its map is largest


@dataclass(frozen=True)
class WordShare:
    """One word at one refinement, each in [0, 1] or None where the model has no such gate.

    ``written``: the writing gate g_w: how much of the word is written into memory; the rest is the image's.
    ``read``: how much of all reading was of this word: the mean of the attention over pixels.
    ``taken``: how much of the image's features came from it: the mean of attention times response gate.
    """

    word: str
    written: float | None
    read: float
    taken: float | None


@dataclass(frozen=True)
class Refinement:
    """One refinement. ``attention``: a layer for each word, on one scale; ``response_gate``: one, or None.

    ``taken``: the mean of the response gate: how much of the features came from memory.
    """

    resolution: int
    attention: list[Image.Image]
    response_gate: Image.Image | None
    words: list[WordShare]
    taken: float | None


def refinements(sample: Sample) -> list[Refinement]:
    """Of an image with maps, smallest first; without maps none."""
    found = []
    for number, attention in enumerate(sample.attention):
        gate = sample.response_gates[number].float() if sample.response_gates else None
        written = sample.writing_gates[number] if sample.writing_gates else None
        weights = attention.float()
        words = [
            WordShare(
                word,
                None if written is None else float(written[place]),
                float(weights[place].mean()),
                None if gate is None else float((weights[place] * gate).mean()),
            )
            for place, word in enumerate(sample.words)
        ]
        found.append(
            Refinement(
                sample.images[number + 1].shape[-1],
                [layer(each, RED) for each in relative(weights)],
                None if gate is None else layer(gate, BLUE),
                words,
                None if gate is None else float(gate.mean()),
            )
        )
    return found


def layer(weight: Tensor, colour: tuple[int, int, int]) -> Image.Image:
    """A map ``[H, W]`` in [0, 1] → RGBA: the colour, the more opaque the larger the map."""
    alpha = (weight.clamp(0, 1) * (STRONGEST * 255)).round().to(torch.uint8)
    plain = torch.tensor(colour, dtype=torch.uint8).expand(*weight.shape, 3)
    return Image.fromarray(torch.cat((plain, alpha[..., None]), -1).numpy(), "RGBA")
