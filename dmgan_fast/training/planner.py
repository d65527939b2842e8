"""The memory planner: what a training step needs, and the cheapest policy under which it fits.

Nothing is computed: the real step runs on tensors without data (``meter``). How it draws and how it judges pictures is
run apart, so that policies which share one of them share its cost.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, lru_cache, partial
from math import floor, log
from typing import Any

import torch
from torch import Tensor

from dmgan_fast.config import to_dict
from dmgan_fast.errors import InputError
from dmgan_fast.metering.dataless import Dataless
from dmgan_fast.metering.meter import KINDS, Meter
from dmgan_fast.modules import (
    Discriminator,
    Generator,
    GeneratorConfig,
    ImageEncoder,
    ImageEncoderConfig,
    fold,
    padding_mask,
)
from dmgan_fast.modules.generator import FIRST_SIDE, Level, sides_up_to
from dmgan_fast.modules.spectral_norm import forget_products
from dmgan_fast.runs.config import TrainConfig
from dmgan_fast.runs.policy import MemoryPolicy
from dmgan_fast.sampling.bundle import open_bundle
from dmgan_fast.sizes import parse_size, show_size
from dmgan_fast.training.batch import Batch
from dmgan_fast.training.step import TrainStep

MAX_BATCH = 4096
LARGEST_SIDE = 4096  # beyond, a discriminator alone has billions of weights
# Micro-batches that are run: the first, the second, which meets gradients that are there, and stands for those after
# it, and the last, which has a picture less to pair with wrong captions.
FEW_PARTS = 3


def device_memory(device: str | torch.device | None = None) -> int:
    """Bytes of a GPU, or of this machine."""
    if torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")).type == "cuda":
        return int(torch.cuda.mem_get_info()[1])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


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
    def flops(self) -> int:
        return sum(self.arithmetic.values())


@dataclass(frozen=True)
class Plan:
    """What ``plan`` found.

    ``policy``: the one with the least arithmetic that fits, or the most frugal if none does. ``peak``: its predicted
    bytes by kind (``weights``, ``optimiser``, ``gradients``, ``batch``, ``saved`` for backward, ``temporary``).
    ``recompute_flops``: what it computes beyond a step that keeps everything. ``tried``: policies in the order of
    their cost.
    """

    fits: bool
    policy: MemoryPolicy
    peak: Mapping[str, int]
    flops: int
    recompute_flops: int
    memory_bytes: int
    batch_size: int
    side: int
    precision: str
    device: str
    tried: tuple[Cost, ...]
    _measure: Measure = field(repr=False, compare=False)

    @cached_property
    def bytes_per_picture(self) -> int:
        """What one more picture costs."""
        more = max(1, self.batch_size // 4)
        return (self._measure(self.policy, self.batch_size + more).peak_bytes - self.peak_bytes) // more

    @cached_property
    def largest_batch(self) -> int:
        """The most pictures that fit under the most frugal policy, 0 if not even two do."""
        *_, frugal = _ladder(self._measure.config, self.batch_size)
        if self._measure.state_bytes > self.memory_bytes:
            return 0
        return largest_batch(lambda n: self._measure(frugal, n).peak_bytes, self.memory_bytes, self.batch_size)

    @cached_property
    def largest_side(self) -> int:
        """The largest side of pictures at which the most frugal policy fits, 0 if none does."""
        return _largest_side(self._measure, self.batch_size, self.memory_bytes)

    @property
    def peak_bytes(self) -> int:
        return sum(self.peak.values())

    def to_json(self) -> str:
        """``fits``, ``policy``, ``peak_bytes``, ``bytes_per_picture``, ``largest_batch``, ``recompute_flops``, ..."""
        shown = [f.name for f in fields(self) if f.name not in ("tried", "_measure")]
        shown += ["peak_bytes", "bytes_per_picture", "largest_batch", "largest_side"]
        return json.dumps({name: getattr(self, name) for name in shown} | {"policy": to_dict(self.policy)}, indent=2)

    def explain(self) -> str:
        """The plan in words."""
        what = f"{self.side}² in {self.precision}, batch {self.batch_size}, {show_size(self.memory_bytes)}"
        kinds = ", ".join(f"{kind} {show_size(self.peak[kind])}" for kind in KINDS if self.peak.get(kind))
        more = self.recompute_flops / (self.flops - self.recompute_flops)
        lines = [
            f"{what}: {'fits' if self.fits else 'does not fit'} ({self.device})",
            f"  policy       {describe(self.policy)}",
            f"  peak         {show_size(self.peak_bytes)}: {kinds}",
            f"  arithmetic   {self.flops / 1e12:.2f} TFLOP a step, {100 * more:.0f} % of it recomputed"
            if more
            else f"  arithmetic   {self.flops / 1e12:.2f} TFLOP a step, none of it recomputed",
            f"  one picture  {show_size(self.bytes_per_picture)} more",
            f"  at the most  batch {self.largest_batch} at {self.side}², side {self.largest_side} at batch "
            f"{self.batch_size}",
            "  tried        " + "\n               ".join(self._row(cost) for cost in self.tried),
        ]
        if not self.fits:
            lines.append(f"  it would need {show_size(self.peak_bytes)}" + self.instead())
        if self.device != "cpu":
            lines.append(
                "  not counted: the CUDA context, workspaces of libraries and fragmentation; not yet verified on a GPU"
            )
        return "\n".join(lines)

    def _row(self, cost: Cost) -> str:
        mark = "*" if cost.policy == self.policy else " "
        return f"{mark} {show_size(cost.peak_bytes):>9}  {cost.flops / 1e12:6.2f} TFLOP  {describe(cost.policy)}"

    def instead(self) -> str:
        """What would fit or help, to end a sentence with; empty if nothing is known."""
        options = []
        if self.largest_batch:
            options.append(f"a batch of {self.largest_batch}")
        if self.largest_side:
            options.append(f"a side of {self.largest_side}")
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
    if policy.offload:
        words.append("offloaded")
    return ", ".join(words)


def plan(
    config: TrainConfig | GeneratorConfig,
    *,
    batch_size: int,
    memory_bytes: int,
    device: str | torch.device | None = None,
) -> Plan:
    """Choose the policy with the least arithmetic under which a training step fits into ``memory_bytes``.

    Args:
        config: of the run; a ``GeneratorConfig`` alone takes the other settings of the birds. ``config.encoders``, if
            given, tells which image encoder.
        batch_size: pictures a step, 2 or more.
        memory_bytes: budget for weights, optimisers and everything else that PyTorch allocates.
        device: planned for; None: a GPU if there is one. A GPU need not be there.

    Raises:
        InputError: for a batch below 2, or a budget that is not positive.
    """
    if isinstance(config, GeneratorConfig):
        config = TrainConfig(generator=config)
    if batch_size < 2:
        raise InputError(f"plan: batch_size must be at least 2 (batch norm), got {batch_size}")
    if memory_bytes < 1:
        raise InputError(f"plan: memory_bytes must be positive, got {memory_bytes}")
    kind = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")).type
    measure = measure_of(config, kind)
    policies = list(_ladder(config, batch_size))
    least = measure(policies[0], batch_size)
    if measure.state_bytes > memory_bytes:
        policies = policies[-2:]
    tried = [least]
    for policy in policies[1:]:
        if tried[-1].peak_bytes <= memory_bytes:
            break
        tried.append(measure(policy, batch_size))
    fitting = [cost for cost in tried if cost.peak_bytes <= memory_bytes]
    chosen = min(fitting, key=lambda c: c.flops) if fitting else min(tried, key=lambda c: c.peak_bytes)
    return Plan(
        fits=bool(fitting),
        policy=chosen.policy,
        peak=dict(chosen.peak),
        flops=chosen.flops,
        recompute_flops=chosen.flops - least.flops,
        memory_bytes=memory_bytes,
        batch_size=batch_size,
        side=config.generator.image_sizes[-1],
        precision=config.step.precision,
        device=kind,
        tried=tuple(tried),
        _measure=measure,
    )


def fit(config: TrainConfig, memory: str) -> tuple[TrainConfig, Plan]:
    """``config`` under the cheapest policy that fits into ``memory`` (as ``"24GiB"``), and the plan.

    Raises:
        InputError: if nothing fits; says what would.
    """
    batch_size, device = config.loop.batch_size, None if config.loop.device == "auto" else config.loop.device
    found = plan(config, batch_size=batch_size, memory_bytes=parse_size(memory), device=device)
    if not found.fits:
        raise InputError(
            f"a step at {found.side}² in {found.precision} with a batch of {batch_size} does not fit into {memory}: "
            f"the most frugal policy needs {show_size(found.peak_bytes)}{found.instead()}"
        )
    return replace(config, step=replace(config.step, memory=found.policy)), found


# ----------------------------------------------------------------------------------------------------------- searching


def _ladder(config: TrainConfig, batch_size: int) -> Iterator[MemoryPolicy]:
    """Policies from the cheapest to the most frugal, for the sides of ``config``."""
    sides = len(config.generator.image_sizes)
    one = None if config.discriminator(64).needs_whole_batches else 1

    def policy(last: Level, others: Level, micro_batch: int | None, tile_rows: int = 64) -> MemoryPolicy:
        levels = (*(others for _ in range(sides - 1)), last)
        return MemoryPolicy(checkpointing=levels, micro_batch=micro_batch, tile_rows=tile_rows)

    yield MemoryPolicy()
    if one and batch_size > 4:
        yield MemoryPolicy(micro_batch=4)
    yield MemoryPolicy(checkpointing="op")
    if sides > 1:
        yield policy("block", "none", None)
        yield policy("block", "none", one)
        yield policy("block", "block", one)
    yield policy("block", "stage", one)
    if sides > 1:
        yield policy("tile", "stage", one)
        yield policy("tile", "stage", one, tile_rows=16)


def largest_batch(peak: Callable[[int], int], budget: int, start: int) -> int:
    """The largest batch whose peak is within the budget, 0 if none is."""
    high = max(start, 4)
    low = high // 2
    low_peak, high_peak = peak(low), peak(high)
    if low_peak > budget:
        (low, low_peak), (high, high_peak) = (2, peak(2)), (low, low_peak)
        if low_peak > budget:
            return 0
    while high_peak <= budget:
        if high == MAX_BATCH:
            return MAX_BATCH
        slope = max(1, (high_peak - low_peak) // (high - low))
        low, low_peak = high, high_peak
        high = min(high + (budget - high_peak) // slope + 1, MAX_BATCH)
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


def _largest_side(known: Measure, batch_size: int, budget: int) -> int:
    """The largest side at which the most frugal policy fits, 0 if none does."""
    config, kind = known.config, known.meter.device_type

    def fits(side: int) -> bool:
        wider = replace(config, generator=replace(config.generator, image_sizes=sides_up_to(side)))
        *_, frugal = _ladder(wider, batch_size)
        return measure_of(wider, kind).fits(frugal, batch_size, budget)

    *_, frugal = _ladder(config, batch_size)
    least = known.state_bytes if known.state_bytes > budget else known(frugal, batch_size).peak_bytes
    # Pictures of twice the side have four times the pixels: the guess spares the sides between.
    guess = config.generator.image_sizes[-1] * 2.0 ** floor(log(budget / least, 4))
    side = int(min(max(guess, FIRST_SIDE), LARGEST_SIDE))
    if fits(side):
        while side < LARGEST_SIDE and fits(2 * side):
            side *= 2
        return side
    while side > FIRST_SIDE:
        side //= 2
        if fits(side):
            return side
    return 0


# ----------------------------------------------------------------------------------------------------------- measuring


@dataclass(frozen=True)
class _Part:
    """Drawing with the generator's update, or judging. ``events``: by phase, bytes by kind after each allocation
    ``[N, kinds]``; ``arithmetic``: operations by phase; ``held``: bytes by kind while pictures are judged that are
    there before it begins."""

    events: Mapping[str, Tensor]
    arithmetic: Mapping[str, int]
    held: Mapping[str, int]

    @cached_property
    def phases(self) -> Mapping[str, Mapping[str, int]]:
        """By phase, bytes by kind when most are alive."""
        peaks = {phase: events[events.sum(1).argmax()].tolist() for phase, events in self.events.items()}
        return {phase: dict(zip(KINDS, kinds, strict=True)) for phase, kinds in peaks.items()}


class Measure:
    """Runs steps of a run's models without data; what is found is remembered."""

    def __init__(self, config: TrainConfig, device: str) -> None:
        self.config, self.meter = config, Meter(device)
        self.drawn: dict[MemoryPolicy, dict[int, _Part]] = {}
        self.judged: dict[int | None, dict[int, _Part]] = {}
        encoder = _folded(_encoder_config(config)) if config.step.damsm_weight else None
        with Dataless():
            self.step = models_of(config, encoder, partial(_FewParts, self.meter))
            models = [self.step.generator, *self.step.discriminators, self.step.average]
            models += [self.step.image_encoder] if self.step.image_encoder is not None else []
            self.meter.mark((t for model in models for t in (*model.parameters(), *model.buffers())), "weights")
            for optimizer in (self.step.generator_optimizer, *self.step.discriminator_optimizers):
                _begin(optimizer)
                self.meter.mark((t for state in optimizer.state.values() for t in state.values()), "optimiser")
        self.state_bytes = self.meter.now.total()  # weights and optimisers

    def __call__(self, policy: MemoryPolicy, batch_size: int) -> Cost:
        """Drawing and judging meet in the pictures, and in what the generator holds meanwhile."""
        drawn, judged = self._drawn(policy, batch_size), self._judged(policy.micro_batch, batch_size)
        more = Counter(drawn.held)
        more.subtract(judged.held)
        phases = {phase: {k: kinds[k] + more[k] for k in KINDS} for phase, kinds in judged.phases.items()}
        return Cost(policy, {**drawn.phases, **phases}, {**drawn.arithmetic, **judged.arithmetic})

    def fits(self, policy: MemoryPolicy, batch_size: int, memory_bytes: int) -> bool:
        """Whether a step does; measures no more than that takes."""
        if self.state_bytes > memory_bytes:
            return False
        drawing = (sum(kinds.values()) for kinds in self._drawn(policy, batch_size).phases.values())
        return max(drawing) <= memory_bytes and self(policy, batch_size).peak_bytes <= memory_bytes

    def _drawn(self, policy: MemoryPolicy, batch_size: int) -> _Part:
        policy = replace(policy, micro_batch=None)

        def draw() -> _Part:
            self.step.set_memory(policy)
            with self._batch(batch_size) as (batch, noise):
                parts, pictures = self.step.draw(batch, **noise)
                held, self.meter.phase = self.meter.now, ""
                self.step.learn_from(parts, [torch.empty_like(picture) for picture in pictures])
            return self._part(held)

        return _found(self.drawn.setdefault(policy, {}), batch_size, torch.get_num_threads(), draw)

    def _judged(self, micro_batch: int | None, batch_size: int) -> _Part:
        def judge() -> _Part:
            self.step.set_memory(MemoryPolicy(micro_batch=micro_batch))
            with self._batch(batch_size) as (batch, _):
                pictures = [torch.empty_like(image) for image in batch.images]
                held = self.meter.now
                self.step.judge(batch, pictures)
            return self._part(held)

        straight = (FEW_PARTS * micro_batch) if micro_batch else torch.get_num_threads()
        return _found(self.judged.setdefault(micro_batch, {}), batch_size, straight, judge)

    @contextmanager
    def _batch(self, size: int) -> Iterator[tuple[Batch, dict[str, Tensor]]]:
        """Within, the meter counts from nothing but state and batch, whatever was run before."""
        for discriminator in self.step.discriminators:
            forget_products(discriminator)
        with Dataless():
            batch, noise = batch_of(self.config, size)
        self.meter.mark([*batch.images, batch.words, batch.sentence, batch.padding_mask, *noise.values()], "batch")
        self.meter.reset()
        try:
            with self.meter.watching([self.step.generator, *self.step.discriminators]):
                yield batch, noise
        except BaseException:
            measure_of.cache_clear()  # a step cut short leaves gradients behind
            raise

    def _part(self, held: Mapping[str, int]) -> _Part:
        events = {phase: torch.tensor(events) for phase, events in self.meter.events.items() if phase}
        return _Part(events, dict(self.meter.flops), held)


class _FewParts(TrainStep):
    """A step on tensors without data that judges a few of the micro-batches; those between them are like the second."""

    def __init__(self, meter: Meter, *models: Any) -> None:
        super().__init__(*models)
        self.meter = meter

    def _micro_batches(self, size: int) -> Iterator[slice]:
        parts = list(super()._micro_batches(size))
        if len(parts) <= FEW_PARTS:
            yield from parts
            return
        yield parts[0]
        phase, flops = self.meter.phase, self.meter.flops
        before = flops[phase]
        yield parts[1]
        flops[phase] += (flops[phase] - before) * (len(parts) - FEW_PARTS)
        yield parts[-1]

    def _encode(self, pictures: Tensor) -> list[tuple[Tensor, Tensor]]:
        encoded = super()._encode(pictures)
        missing = len(pictures) - sum(len(code) for _, code in encoded)
        if not missing:
            return encoded
        regions, code = (x.new_empty(missing, *x.shape[1:]) for x in encoded[0])
        return [*encoded, (regions, code)]


def _found(known: dict[int, _Part], batch_size: int, straight: int, run: Callable[[], _Part]) -> _Part:
    """What is known of a batch, else of the two largest ones, else what ``run`` finds: every allocation is a line over
    the batch, from ``straight`` pictures on."""
    if batch_size in known:
        return known[batch_size]
    sizes = [size for size in sorted(known) if size >= straight][-2:]
    if len(sizes) == 2 and batch_size >= straight:
        (first, low), (second, high) = ((size, known[size]) for size in sizes)
        if {p: len(e) for p, e in low.events.items()} == {p: len(e) for p, e in high.events.items()}:
            return _on_line(low, high, first, second, batch_size)
    known[batch_size] = run()
    return known[batch_size]


def _on_line(low: _Part, high: _Part, first: int, second: int, size: int) -> _Part:
    def line(low: Any, high: Any) -> Any:
        return low + (high - low) * (size - first) // (second - first)

    return _Part(
        {phase: line(events, high.events[phase]) for phase, events in low.events.items()},
        {phase: line(flops, high.arithmetic[phase]) for phase, flops in low.arithmetic.items()},
        {kind: line(size, high.held[kind]) for kind, size in low.held.items()},
    )


@lru_cache(8)
def measure_of(config: TrainConfig, device: str) -> Measure:
    """Plans of one configuration share what was measured."""
    return Measure(config, device)


def models_of(
    config: TrainConfig, encoder: ImageEncoder | None = None, kind: Callable[..., TrainStep] = TrainStep
) -> TrainStep:
    """A step of new models. ``encoder``: None makes one, if the losses ask for it."""
    generator = Generator(config.generator)
    discriminators = [Discriminator(config.discriminator(side)) for side in config.generator.image_sizes]
    if encoder is None and config.step.damsm_weight:
        encoder = ImageEncoder(_encoder_config(config))
    return kind(generator, discriminators, encoder, replace(config.step, memory=MemoryPolicy()))


@lru_cache(2)
def _folded(config: ImageEncoderConfig) -> ImageEncoder:
    """An encoder without data, of which every step folds a copy: of a folded one that is soon done."""
    with Dataless():
        return fold(ImageEncoder(config))


def _begin(optimizer: torch.optim.Optimizer) -> None:
    """Take a first step, which makes the optimiser's state."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.empty_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def batch_of(config: TrainConfig, size: int) -> tuple[Batch, dict[str, Any]]:
    generator, words = config.generator, config.data.max_words
    lengths = torch.full((size,), words)
    batch = Batch(
        images=[torch.empty(size, 3, side, side) for side in generator.image_sizes],
        words=torch.empty(size, generator.word_channels, words),
        sentence=torch.empty(size, generator.word_channels),
        padding_mask=padding_mask(lengths, words),
        lengths=lengths,
        class_ids=torch.arange(size),
    )
    noise = {"noise": generator.noise_channels, "eps": generator.condition_channels}
    return batch, {name: torch.empty(size, channels) for name, channels in noise.items()}


def _encoder_config(config: TrainConfig) -> ImageEncoderConfig:
    if config.encoders is None:
        return ImageEncoderConfig(channels=config.generator.word_channels)
    found: ImageEncoderConfig = open_bundle(config.encoders, "image_encoder").image_encoder_config()
    return found
