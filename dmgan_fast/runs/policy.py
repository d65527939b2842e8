"""What a training step keeps in memory and what it recomputes. Every choice here is exact."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from dmgan_fast.config import config_dataclass
from dmgan_fast.errors import InputError
from dmgan_fast.modules.generator import Level
from dmgan_fast.ops._tiles import MIN_ROWS


@config_dataclass
class MemoryPolicy:
    """How a step trades time for memory; ``planner.plan`` chooses one.

    ``checkpointing``: a level for all resolutions of the generator, or one for each (``Generator.set_checkpointing``).
    ``tile_rows``: rows of a tile at the level ``"tile"``. ``micro_batch``: images that go through a discriminator or
    the image encoder at a time; None: all. ``offload``: what the generator keeps waits in the host's memory (GPU only).
    ``together``: a discriminator learns from real and generated images in one pass, which takes half the launches and
    keeps both for backward; None: on a GPU, where ``micro_batch`` leaves the batch whole.
    """

    checkpointing: Level | tuple[Level, ...] = "none"
    tile_rows: int = Field(64, ge=MIN_ROWS)
    micro_batch: Annotated[int, Field(ge=1)] | None = None
    offload: bool = False
    together: bool | None = None

    def __post_init__(self) -> None:
        if self.together and self.micro_batch is not None:
            raise InputError(
                f"memory.together=True passes all images at once, memory.micro_batch={self.micro_batch} does not: "
                "leave one of them out"
            )

    def levels(self, count: int) -> tuple[Level, ...]:
        """One level for each resolution."""
        chosen = self.checkpointing
        levels = tuple(chosen for _ in range(count)) if isinstance(chosen, str) else chosen
        if len(levels) != count:
            raise InputError(
                f"memory.checkpointing must be one level or {count}, one for each resolution, got {levels}"
            )
        return levels
