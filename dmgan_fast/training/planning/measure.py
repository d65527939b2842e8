"""Memory and arithmetic of a run's training steps, policy by policy and batch by batch.

Nothing is computed: the real step runs on tensors without data (``metering``). How it generates and how it judges
images is run apart, so that policies which share one of them share its cost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from dmgan_fast.devices import planned_for
from dmgan_fast.metering.cuda import CUBLAS, block_bytes
from dmgan_fast.metering.dataless import Dataless
from dmgan_fast.metering.meter import KINDS, Meter
from dmgan_fast.modules import Discriminator, Generator, ImageEncoder, ImageEncoderConfig, fold, padding_mask
from dmgan_fast.parallel import Processes
from dmgan_fast.runs.config import TrainConfig
from dmgan_fast.runs.policy import MemoryPolicy
from dmgan_fast.training.batch import Batch
from dmgan_fast.training.graph import WORD_BUCKET
from dmgan_fast.training.planning.plan import GRAPHS, WORKSPACES, Cost
from dmgan_fast.training.step import TrainStep

FEW_PARTS = 3  # micro-batches of a network that learns


@dataclass(frozen=True)
class _Part:
    """The generator's phases, or the discriminators'. ``events``: by phase, bytes per kind after each allocation
    ``[N, kinds]``; ``arithmetic``: operations by phase; ``held``: bytes per kind already allocated when the
    discriminator phase starts."""

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

    def __init__(self, config: TrainConfig, device: str, by_trial: bool = False) -> None:
        self.config, self.meter = config, Meter(device, by_trial=by_trial)
        self.drawn: dict[MemoryPolicy, dict[int, _Part]] = {}
        self.judged: dict[MemoryPolicy, dict[int, _Part]] = {}
        encoder = nn.Sequential(_folded(_encoder_config(config))) if config.step.damsm_weight else None
        with Dataless(), planned_for(device):
            self.step = models_of(config, encoder, partial(_FewParts, self.meter))
            models = [self.step.generator, *self.step.discriminators, self.step.average]
            models += [each for each in (self.step.image_encoder, self.step._judge) if each is not None]
            self.meter.mark((t for model in models for t in (*model.parameters(), *model.buffers())), "weights")
            for optimizer in (self.step.generator_optimizer, *self.step.discriminator_optimizers):
                _begin(optimizer)
                self.meter.mark((t for state in optimizer.state.values() for t in state.values()), "optimiser")
        self.state_bytes = self.meter.now.total()  # weights and optimisers

    def __call__(self, policy: MemoryPolicy, batch_size: int) -> Cost:
        """Generating and judging meet in the images, and in what the generator holds meanwhile."""
        drawn, judged = self._drawn(policy, batch_size), self._judged(policy, batch_size)
        more = Counter(drawn.held)
        more.subtract(judged.held)
        phases = {phase: {k: kinds[k] + more[k] for k in KINDS} for phase, kinds in judged.phases.items()}
        found = Cost(policy, {**drawn.phases, **phases}, {**drawn.arithmetic, **judged.arithmetic})
        return found if self.meter.device_type == "cpu" else self._on_gpu(found, batch_size)

    def _on_gpu(self, cost: Cost, batch_size: int) -> Cost:
        """With what libraries hold throughout, and CUDA graphs between replays."""
        held = {WORKSPACES: CUBLAS}
        if self.config.step.cuda_graph:
            held[GRAPHS] = self._graph_bytes(cost.transient_bytes, batch_size)
        return replace(cost, phases={phase: {**kinds, **held} for phase, kinds in cost.phases.items()})

    def _graph_bytes(self, transient: int, batch_size: int) -> int:
        """Every length of captions has buffers for its batch. All graphs share a pool, which the first fills with what
        a step makes; while a second length warms up, its steps need as much again beside it."""
        lengths = -(-self.config.data.max_words // WORD_BUCKET)
        with Dataless():
            batch, noise = batch_of(self.config, batch_size)
        buffers = sum(block_bytes(tensor.nbytes) for tensor in _tensors_of(batch, noise))
        return lengths * buffers + (transient if lengths > 1 else 0)

    def fits(self, policy: MemoryPolicy, batch_size: int, memory_bytes: int) -> bool:
        """Whether a step does; measures no more than that takes."""
        if self.state_bytes > memory_bytes:
            return False
        drawing = (sum(kinds.values()) for kinds in self._drawn(policy, batch_size).phases.values())
        return max(drawing) <= memory_bytes and self(policy, batch_size).peak_bytes <= memory_bytes

    def _drawn(self, policy: MemoryPolicy, batch_size: int) -> _Part:
        policy = replace(policy, micro_batch=None, together=None)

        def draw() -> _Part:
            self.step.set_memory(policy)
            with self._batch(batch_size) as (batch, noise):
                parts, pictures = self.step.draw(batch, noise["noise"], noise["eps"])
                held, self.meter.phase = self.meter.now, ""
                self.step.learn_from(parts, [torch.empty_like(picture) for picture in pictures])
            return self._part(held)

        return _found(self.drawn.setdefault(policy, {}), batch_size, torch.get_num_threads(), draw)

    def _judged(self, policy: MemoryPolicy, batch_size: int) -> _Part:
        policy = MemoryPolicy(micro_batch=policy.micro_batch, together=policy.together)
        micro_batch = policy.micro_batch

        def judge() -> _Part:
            self.step.set_memory(policy)
            with self._batch(batch_size) as (batch, _):
                pictures = [torch.empty_like(image) for image in batch.images]
                held = self.meter.now
                self.step.judge(batch, pictures)
            return self._part(held)

        straight = (FEW_PARTS * micro_batch) if micro_batch else torch.get_num_threads()
        return _found(self.judged.setdefault(policy, {}), batch_size, straight, judge)

    @contextmanager
    def _batch(self, size: int) -> Iterator[tuple[Batch, dict[str, Tensor]]]:
        """Within, the meter counts from nothing but state and batch, whatever was run before."""
        with Dataless():
            batch, noise = batch_of(self.config, size)
        self.meter.mark(_tensors_of(batch, noise), "batch")
        self.meter.reset()
        try:
            with self.meter.watching([self.step.generator, *self.step.discriminators]):
                yield batch, noise
        except BaseException:
            _measure_of.cache_clear()  # a step cut short leaves gradients behind
            raise

    def _part(self, held: Mapping[str, int]) -> _Part:
        events = {phase: torch.tensor(events) for phase, events in self.meter.events.items() if phase}
        return _Part(events, dict(self.meter.flops), held)


class _FewParts(TrainStep):
    """A step on tensors without data that judges a few of the micro-batches, which stand for the others."""

    def __init__(self, meter: Meter, *models: Any) -> None:
        super().__init__(*models, processes=Processes())
        self.meter = meter

    def _micro_batches(self, size: int) -> Iterator[slice]:
        phase, flops = self.meter.phase, self.meter.flops
        for part, times in _standing_for(list(super()._micro_batches(size)), phase.startswith("discriminator")):
            before = flops[phase]
            yield part
            flops[phase] += (flops[phase] - before) * (times - 1)

    def _encode(self, pictures: Tensor) -> list[tuple[Tensor, Tensor]]:
        encoded = super()._encode(pictures)
        missing = len(pictures) - sum(len(code) for _, code in encoded)
        if not missing:
            return encoded
        regions, code = (x.new_empty(missing, *x.shape[1:]) for x in encoded[0])
        return [*encoded, (regions, code)]


def _standing_for(parts: list[slice], learns: bool) -> Iterator[tuple[slice, int]]:
    """Micro-batches to run, and how many they stand for.

    Of a network that learns: the first, the second, which meets gradients that are there and stands for those after it,
    and the last, which has an image less to pair with wrong captions. Of another one: one of each size.
    """
    if learns and len(parts) > FEW_PARTS:
        yield from ((parts[0], 1), (parts[1], len(parts) - 2), (parts[-1], 1))
    elif learns:
        yield from ((part, 1) for part in parts)
    else:
        alike = sum(part.stop - part.start == parts[0].stop for part in parts)
        yield parts[0], alike
        yield from ((part, 1) for part in parts[alike:])


def _found(known: dict[int, _Part], batch_size: int, straight: int, run: Callable[[], _Part]) -> _Part:
    """What is known of a batch, else of the two largest ones, else what ``run`` finds: every allocation is a line over
    the batch, from ``straight`` images on."""
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


def measure_of(config: TrainConfig, device: str) -> Measure:
    """Plans of one configuration share what was measured."""
    return _measure_of(config, device, device != "cpu" and torch.backends.cudnn.benchmark)


@lru_cache(8)
def _measure_of(config: TrainConfig, device: str, by_trial: bool) -> Measure:
    return Measure(config, device, by_trial)


def models_of(
    config: TrainConfig, encoder: nn.Module | None = None, kind: Callable[..., TrainStep] = TrainStep
) -> TrainStep:
    """A step of new models. ``encoder``: None makes one, if the losses ask for it."""
    generator = Generator(config.generator)
    discriminators = [Discriminator(config.discriminator(side)) for side in config.generator.image_sizes]
    if encoder is None and config.step.damsm_weight:
        encoder = ImageEncoder(_encoder_config(config))
    return kind(generator, discriminators, encoder, replace(config.step, memory=MemoryPolicy(), cuda_graph=False))


@lru_cache(2)
def _folded(config: ImageEncoderConfig) -> ImageEncoder:
    """An encoder without data that all steps share, each behind a module of its own, so that none folds a copy."""
    with Dataless():
        return fold(ImageEncoder(config))


def _begin(optimizer: torch.optim.Optimizer) -> None:
    """Take a first step, which makes the optimiser's state."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.empty_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _tensors_of(batch: Batch, noise: dict[str, Any]) -> list[Tensor]:
    return [*batch.images, batch.words, batch.sentence, batch.padding_mask, *noise.values()]


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
    from dmgan_fast.sampling.bundle import open_bundle  # not needed for plans of other runs

    found: ImageEncoderConfig = open_bundle(config.encoders, "image_encoder").image_encoder_config()
    return found
