"""What the planner finds: the cost of a policy, and a plan. Both are data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property

from dmgan_fast.config import to_dict
from dmgan_fast.runs.policy import MemoryPolicy
from dmgan_fast.sizes import show_size

MADE = ("gradients", "saved", "temporary")
WORKSPACES, GRAPHS = "workspaces", "graphs"  # kinds of memory that are no tensors of the step
COUNTED = (
    "tensors as blocks of 512 B, from 10 MiB on of 2 MiB; workspaces of cuBLAS and, computed, of cuDNN; graphs' pool"
)
NOT_COUNTED = (
    "the CUDA context (about 0.5 GiB), fragmentation, free blocks that PyTorch keeps, NCCL's buffers, and what cuDNN's "
    "kernels need beyond their known forms; not yet verified on a GPU"
)


@dataclass(frozen=True)
class Cost:
    """One policy at one batch: by phase of the step, bytes by kind at the peak and floating point operations."""

    policy: MemoryPolicy
    phases: Mapping[str, Mapping[str, int]]
    arithmetic: Mapping[str, int]

    @cached_property
    def peak(self) -> Mapping[str, int]:
        return max(self.phases.values(), key=lambda kinds: sum(kinds.values()))

    @property
    def peak_bytes(self) -> int:
        return sum(self.peak.values())

    @property
    def transient_bytes(self) -> int:
        """The most that is alive of what a step makes itself: neither state nor batch."""
        return max(sum(kinds[kind] for kind in MADE) for kinds in self.phases.values())

    @property
    def flops(self) -> int:
        return sum(self.arithmetic.values())


@dataclass(frozen=True)
class Plan:
    """What ``plan`` found.

    ``policy``: the one with the least arithmetic that fits, or the most frugal if none does. ``peak``: its predicted
    bytes by kind (``weights``, ``optimiser``, ``gradients``, ``batch``, ``saved`` for backward, ``temporary``; on a GPU
    also ``workspaces`` of libraries, and ``graphs``, what CUDA graphs hold between replays).
    ``recompute_flops``: what it computes beyond a step that keeps everything. ``tried``: policies in the order of
    their cost. ``bytes_per_picture``: what one more image costs. ``largest_batch``, ``largest_resolution``: the most
    images, and their highest resolution, that fit under the most frugal policy; 0 if not even two images, or no
    resolution, do. ``rows``: so many processes hold each image together; all is said of the one that has most of it.
    """

    fits: bool
    policy: MemoryPolicy
    peak: Mapping[str, int]
    flops: int
    recompute_flops: int
    memory_bytes: int
    batch_size: int
    resolution: int
    rows: int
    precision: str
    device: str
    tried: tuple[Cost, ...]
    bytes_per_picture: int
    largest_batch: int
    largest_resolution: int

    @property
    def peak_bytes(self) -> int:
        return sum(self.peak.values())

    def to_json(self) -> str:
        """``fits``, ``policy``, ``peak_bytes``, ``bytes_per_picture``, ``largest_batch``, ``recompute_flops``, ..."""
        shown = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "tried"}
        return json.dumps(shown | {"policy": to_dict(self.policy), "peak_bytes": self.peak_bytes}, indent=2)

    def explain(self) -> str:
        """The plan in words."""
        what = f"{self.resolution}² in {self.precision}, batch {self.batch_size}, {show_size(self.memory_bytes)}"
        what += "" if self.rows == 1 else f", each image on {self.rows} processes"
        kinds = ", ".join(f"{kind} {show_size(size)}" for kind, size in self.peak.items() if size)
        more = self.recompute_flops / (self.flops - self.recompute_flops)
        again = f"{100 * more:.0f} %" if more else "none"
        lines = [
            f"{what}: {'fits' if self.fits else 'does not fit'} ({self.device})",
            f"  policy       {describe(self.policy)}",
            f"  peak         {show_size(self.peak_bytes)}: {kinds}",
            f"  arithmetic   {self.flops / 1e12:.2f} TFLOP a step, {again} of it recomputed",
            f"  one image    {show_size(self.bytes_per_picture)} more",
            f"  at the most  batch {self.largest_batch} at {self.resolution}², resolution {self.largest_resolution} at "
            f"batch {self.batch_size}",
            "  tried        " + "\n               ".join(self._row(cost) for cost in self.tried),
        ]
        if not self.fits:
            lines.append(f"  it would need {show_size(self.peak_bytes)}" + self.instead())
        if self.device != "cpu":
            lines.append(f"  counted      {COUNTED}")
            lines.append(f"  not counted  {NOT_COUNTED}")
        return "\n".join(lines)

    def _row(self, cost: Cost) -> str:
        mark = "*" if cost.policy == self.policy else " "
        return f"{mark} {show_size(cost.peak_bytes):>9}  {cost.flops / 1e12:6.2f} TFLOP  {describe(cost.policy)}"

    def instead(self) -> str:
        """What would fit or help, to end a sentence with; empty if nothing is known."""
        options = []
        if self.largest_batch:
            options.append(f"a batch of {self.largest_batch}")
        if self.largest_resolution:
            options.append(f"a resolution of {self.largest_resolution}")
        if self.precision == "fp32":
            options.append("precision bf16")
        return "; what would fit or help: " + " or ".join(options) if options else ""


def describe(policy: MemoryPolicy) -> str:
    """A policy in a few words."""
    levels = policy.checkpointing if isinstance(policy.checkpointing, str) else "/".join(policy.checkpointing)
    words = [f"checkpointing {levels}"]
    if "tile" in levels:
        words.append(f"tiles of {policy.tile_rows} rows")
    if policy.micro_batch:
        words.append(f"judged {policy.micro_batch} at a time")
    if policy.together is not None:
        words.append("real and generated images " + ("in one pass" if policy.together else "in turn"))
    if policy.offload:
        words.append("offloaded")
    return ", ".join(words)
