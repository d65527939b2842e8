"""What to say when memory runs out while images are generated: what that needs, and what would fit."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from dmgan_fast import out_of_memory
from dmgan_fast.modules import Generator, GeneratorConfig
from dmgan_fast.sizes import show_size

SMALLEST_TILE, USUAL_TILE = 64, 256


def told_of_sampling(generator: Generator, images: int, tile: int | None) -> AbstractContextManager[None]:
    """Within, running out of memory becomes ``OutOfMemory`` that says how to generate with less."""
    return out_of_memory.told(lambda asked: sampling_advice(generator, images, tile, asked))


def sampling_advice(generator: Generator, images: int, tile: int | None, asked: int | None) -> str:
    """What was generated, what that needs, and what would fit."""
    side = generator.config.image_sizes[-1]
    device = next(generator.parameters()).device
    free = out_of_memory.free_memory(device)
    if tile is not None:
        numbers = out_of_memory.numbers(asked, free)
        what = f"out of memory while generating at resolution {side} in windows of {tile}{numbers}; "
        return what + (
            f"take smaller windows (--tile {SMALLEST_TILE})" if tile > SMALLEST_TILE else "generate on another --device"
        )
    base, each = _sampling_bytes(generator, device)
    numbers = out_of_memory.numbers(
        asked, free, f"about {show_size(base + each * images)} needed, {show_size(each)} of it by each image"
    )
    at_once = "one image" if images == 1 else f"{images} images at once"
    what = f"out of memory while generating {at_once} at resolution {side}{numbers}; "
    window = min(USUAL_TILE, max(SMALLEST_TILE, side // 2))
    tiles = f"in windows (--tile {window}, with `sample`)"
    if images == 1:
        return f"{what}generate {tiles}"
    fitting = int((free * out_of_memory.ROOM - base) // each) if free is not None and each else images // 4
    fewer = max(1, min(fitting, images // 2))
    return f"{what}generate fewer at once (--batch {fewer}; batch_size in Python), or {tiles}"


def sampling_bytes(config: GeneratorConfig, images: int, device: str, words: int = 18) -> int:
    """The peak of generating so many images at once, in evaluation, without the weights."""
    from dmgan_fast.metering.dataless import Dataless  # loads much: only when memory ran out
    from dmgan_fast.metering.meter import Meter

    meter = Meter(device)
    with Dataless():
        generator = Generator(config).eval()
        meter.mark((*generator.parameters(), *generator.buffers()), "weights")
        state = meter.now.total()
        sizes = (config.noise_channels, config.word_channels, config.condition_channels)
        noise, sentence, eps = (torch.empty(images, size) for size in sizes)
        described = torch.empty(images, config.word_channels, words)
        with torch.no_grad(), meter:
            generator(noise, sentence, described, None, eps=eps)
    return meter.peak.total() - state


def _sampling_bytes(generator: Generator, device: torch.device) -> tuple[int, int]:
    """Bytes beside the weights: of any batch, and of each image in it."""
    one, two = (sampling_bytes(generator.config, size, device.type) for size in (1, 2))
    return max(0, 2 * one - two), max(1, two - one)
