"""Searches of the planner: policies from the cheapest on, the largest batch and the highest resolution that fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ceil, log

from dmgan_fast.modules.generator import FIRST_SIDE, Level
from dmgan_fast.runs.config import TrainConfig
from dmgan_fast.runs.policy import MemoryPolicy

MAX_BATCH = 4096
LARGEST_SIDE = 4096  # beyond, a discriminator alone has billions of weights


def ladder(config: TrainConfig, batch_size: int, device: str = "cpu") -> Iterator[MemoryPolicy]:
    """Policies from the cheapest to the most frugal, for the resolutions of ``config``. On a GPU the first takes real
    and generated images through a discriminator in one pass, the others in turn."""
    sides = len(config.generator.image_sizes)
    one = None if config.discriminator(FIRST_SIDE).needs_whole_batches else 1
    apart = False if one and device == "cuda" else None

    def policy(last: Level, others: Level, micro_batch: int | None, tile_rows: int = 64) -> MemoryPolicy:
        levels = (*(others for _ in range(sides - 1)), last)
        together = apart if micro_batch is None else None
        return MemoryPolicy(checkpointing=levels, micro_batch=micro_batch, tile_rows=tile_rows, together=together)

    yield MemoryPolicy()
    if apart is not None:
        yield MemoryPolicy(together=apart)
    if one and batch_size > 4:
        yield MemoryPolicy(micro_batch=4)
    yield MemoryPolicy(checkpointing="op", together=apart)
    if sides > 1:
        yield policy("block", "none", None)
        yield policy("block", "none", one)
        yield policy("block", "block", one)
    yield policy("block", "stage", one)
    if sides > 1 and config.parallel.rows == 1:  # which divide an image in another way than tiles
        yield policy("tile", "stage", one)
        yield policy("tile", "stage", one, tile_rows=16)


def most_frugal(config: TrainConfig, batch_size: int) -> MemoryPolicy:
    """The last of the ladder."""
    *_, frugal = ladder(config, batch_size)
    return frugal


def largest_batch(peak: Callable[[int], int], budget: int, start: int, most: int = MAX_BATCH) -> int:
    """The largest batch, up to ``most``, whose peak is within the budget; 0 if none is."""
    high = max(start, 4)
    low = high // 2
    low_peak, high_peak = peak(low), peak(high)
    if low_peak > budget:
        (low, low_peak), (high, high_peak) = (2, peak(2)), (low, low_peak)
        if low_peak > budget:
            return 0
    while high_peak <= budget:
        if high == most:
            return most
        slope = max(1, (high_peak - low_peak) // (high - low))
        low, low_peak = high, high_peak
        high = min(high + (budget - high_peak) // slope + 1, most)
        high_peak = peak(high)
    halve = False
    while high - low > 1:  # the peak is made of lines: follow one, and halve in turn for where they meet
        line = low + (high - low) * (budget - low_peak) // (high_peak - low_peak)
        guess = (low + high) // 2 if halve else min(max(line, low + 1), high - 1)
        found = peak(guess)
        halve = not halve
        if found <= budget:
            low, low_peak = guess, found
        else:
            high, high_peak = guess, found
    return low


def largest_resolution(
    fits: Callable[[int], bool], side: int, bytes_there: int, budget: int, most: int = LARGEST_SIDE
) -> int:
    """The highest resolution of images, up to ``most``, at which a step fits; 0 if none is.

    ``bytes_there``: what it needs at ``side``. Images of twice the resolution have four times the pixels: the first
    resolution that is then too large, which mostly shows at once, spares the resolutions below.
    """
    side = int(min(max(side * 2.0 ** ceil(log(budget / bytes_there, 4)), FIRST_SIDE), most))
    if fits(side):
        while side < most and fits(2 * side):
            side *= 2
        return side
    while side > FIRST_SIDE:
        side //= 2
        if fits(side):
            return side
    return 0
