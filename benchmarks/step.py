"""Whole training steps: the authors' loop (as it is, compiled, under the default allocator, from a checkout) and ours.

Before anything is timed, a narrow model takes steps from one state, ours and the authors': weights in float64 and
losses in float32 must be the same. Then implementations take turns at full width.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.authors_step import AuthorsStep
from benchmarks.checkout import CheckoutStep
from benchmarks.harness import (
    TOLERANCE,
    Target,
    allocation_peak,
    environment_of,
    error,
    in_own_process,
    is_out_of_memory,
    limited_memory,
    show,
    spread,
    take_turns,
    write_rows,
)
from dmgan_fast.modules import (
    Discriminator,
    DiscriminatorConfig,
    Generator,
    GeneratorConfig,
    ImageEncoder,
    ImageEncoderConfig,
    padding_mask,
)
from dmgan_fast.runs.policy import MemoryPolicy
from dmgan_fast.training import Batch, StepConfig, TrainStep

Step = Callable[..., Any]
DIRECTION = "step"
GATE_STEPS = {torch.float64: 10, torch.float32: 2}  # in float32 training amplifies the last bit
EXACT = 1e-9  # relative, in float64
DEFAULT_ALLOCATOR = "authors, default allocator"


@dataclass(frozen=True)
class Setting:
    """A model and a batch; the defaults are the paper's for birds, at a batch of 4."""

    name: str
    batch: int = 4
    words: int = 18
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    discriminator_channels: int = 32
    encoder: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)
    config: StepConfig = field(default_factory=StepConfig)

    def narrow(self) -> Setting:
        """The same depth at a width that steps in float64 within seconds."""
        width = 16
        generator = replace(
            self.generator,
            image_sizes=self.generator.image_sizes[:2],
            base_channels=4,
            word_channels=width,
            condition_channels=8,
            noise_channels=8,
        )
        encoder = ImageEncoderConfig(kind="compact", channels=width, side=64, base_channels=4)
        return replace(self, generator=generator, encoder=encoder, discriminator_channels=4)


BIRDS = Setting("birds B4")
COCO = Setting("COCO B4", 4, 12, GeneratorConfig(residual_blocks=3), config=StepConfig(damsm_weight=50.0))
# As the preset `demo` trains.
DEMO = Setting(
    "demo B16",
    16,
    12,
    GeneratorConfig(
        image_sizes=(64, 128),
        base_channels=16,
        word_channels=128,
        condition_channels=64,
        noise_channels=32,
        residual_blocks=1,
    ),
    16,
    ImageEncoderConfig(kind="compact", channels=128, side=64, base_channels=24),
    StepConfig(damsm_weight=0.5),
)


@dataclass
class Models:
    generator: Generator
    discriminators: list[Discriminator]
    encoder: nn.Module

    @classmethod
    def build(cls, setting: Setting, *, spectral_norm: str = "paper") -> Models:
        torch.manual_seed(0)
        config = setting.generator
        kinds = [
            DiscriminatorConfig(
                image_size=side,
                base_channels=setting.discriminator_channels,
                sentence_channels=config.word_channels,
                spectral_norm=spectral_norm,  # type: ignore[arg-type]
            )
            for side in config.image_sizes
        ]
        encoder = ImageEncoder(setting.encoder).eval().requires_grad_(False)
        return cls(Generator(config).train(), [Discriminator(kind).train() for kind in kinds], encoder)

    def copy(self, dtype: torch.dtype = torch.float32) -> Models:
        whole = copy.deepcopy(self)
        for model in (whole.generator, *whole.discriminators, whole.encoder):
            model.to(dtype)
        return whole


def batch_of(setting: Setting, size: int | None = None, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """What a step is called with."""
    draw = torch.Generator().manual_seed(1)
    size, config = size or setting.batch, setting.generator

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw).to(dtype)

    lengths = setting.words - torch.arange(size) % (setting.words // 2)
    batch = Batch(
        images=[normal(size, 3, side, side).clamp(-1, 1) for side in config.image_sizes],
        words=normal(size, config.word_channels, setting.words),
        sentence=normal(size, config.word_channels),
        padding_mask=padding_mask(lengths, setting.words),
        lengths=lengths,
        class_ids=torch.arange(size),
    )
    return {
        "batch": batch,
        "noise": normal(size, config.noise_channels),
        "eps": normal(size, config.condition_channels),
    }


def ours(models: Models, config: StepConfig) -> TrainStep:
    return TrainStep(models.generator, models.discriminators, models.encoder, config)


def theirs(models: Models, config: StepConfig) -> AuthorsStep:
    return AuthorsStep(models.generator, models.discriminators, models.encoder, config)


# ------------------------------------------------------------------------------------------------------ correctness


def gate(setting: Setting) -> bool:
    """True if our steps are the authors': in float64 the same weights, in float32 the same losses.

    Spectral norms iterate on every forward here, as the authors' do. Weights in float32 are no measure: Adam's first
    step takes the sign of a gradient, which rounding turns around where it is nothing but rounding.
    """
    setting = setting.narrow()
    start = Models.build(setting, spectral_norm="official")
    weights: dict[str, Tensor] = {}
    losses: dict[str, list[dict[str, Tensor]]] = {}
    for name, make, dtype in (
        ("truth", theirs, torch.float64),
        ("ours in float64", ours, torch.float64),
        ("ours", ours, torch.float32),
    ):
        step: Any = make(start.copy(dtype), setting.config)
        losses[name] = [step(**batch_of(setting, dtype=dtype)) for _ in range(GATE_STEPS[dtype])]
        weights[name] = torch.cat([p.detach().flatten() for p in step.generator.parameters()])
    exact = error(weights["ours in float64"], weights["truth"]) <= EXACT
    return exact and all(
        error(found[name], value) <= TOLERANCE[torch.float32]
        for found, truth in zip(losses["ours"], losses["truth"], strict=False)
        for name, value in truth.items()
    )


# --------------------------------------------------------------------------------------------------- implementations


def _default_allocator(setting: Setting, pipe: Any) -> None:
    """Body of a process that keeps glibc's defaults: a step and its milliseconds for each message."""
    torch.set_num_threads(torch.get_num_threads())
    step, inputs = theirs(Models.build(setting), setting.config), batch_of(setting)
    while pipe.recv():
        start = time.perf_counter()
        step(**inputs)
        pipe.send(1e3 * (time.perf_counter() - start))


@contextmanager
def default_allocator(setting: Setting) -> Iterator[Callable[[], float]]:
    """The authors' step in a process of its own, whose allocator nobody has touched."""
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_default_allocator, args=(setting, there), daemon=True)
    process.start()

    def run() -> float:
        here.send(True)
        return float(here.recv())

    try:
        yield run
    finally:
        here.send(False)
        process.join()


def implementations(setting: Setting, authors: Path | None, compiled: bool) -> dict[str, Step]:
    models = Models.build(setting)
    found: dict[str, Step] = {"authors": theirs(models, setting.config)}
    if authors is not None:
        channels = setting.discriminator_channels
        found["authors' code"] = CheckoutStep(authors, setting.generator, channels, setting.config)
    if compiled:
        step = theirs(models, setting.config)
        step.compile()
        found["authors+compile"] = step
    found["dmgan_fast"] = ours(models.copy(), setting.config)
    for level in ("op", "block"):
        policy = MemoryPolicy(checkpointing=level)
        found[f"dmgan_fast, keeps {level}s"] = ours(models.copy(), replace(setting.config, memory=policy))
    return found


def case(
    setting: Setting, repeats: int, authors: Path | None, environment: dict[str, Any], compiled: bool
) -> list[dict[str, Any]]:
    """Rows of one setting."""
    correct = gate(setting)
    steps = implementations(setting, authors, compiled)
    inputs = batch_of(setting)
    rows = []
    with default_allocator(setting) as child:
        functions: dict[str, Callable[[], Any]] = {name: lambda s=step: s(**inputs) for name, step in steps.items()}
        functions[DEFAULT_ALLOCATOR] = child
        times = take_turns(functions, repeats)
    for name in functions:
        row = {"op": "step", "case": setting.name, "implementation": name, "direction": DIRECTION} | environment
        if name == DEFAULT_ALLOCATOR:
            row["allocator"] = "glibc's defaults"
        peak = allocation_peak(functions[name], "cpu") if name in steps else None
        rows.append(row | spread(times[name]) | {"peak_bytes": peak, "saved_bytes": None, "correct": correct})
    return rows


# --------------------------------------------------------------------------------------------------- throughput, start


def throughput(
    setting: Setting, batches: tuple[int, ...], repeats: int, environment: dict[str, Any]
) -> list[dict[str, Any]]:
    """Milliseconds of our step and the authors' by batch; a cell that runs out of memory says so."""
    models = Models.build(setting)
    rows: list[dict[str, Any]] = []
    with limited_memory():
        # Ours first, the smallest batches first: what a failed allocation leaves behind is in nobody's way.
        for name, make in (("dmgan_fast", ours), ("authors", theirs)):
            step = make(models, setting.config)
            for size in batches:
                row = {"op": "throughput", "case": f"{setting.name.split()[0]} B{size}", "implementation": name}
                row |= {"direction": DIRECTION, "batch": size} | environment
                inputs = batch_of(setting, size)
                try:
                    times = take_turns({name: lambda s=step, i=inputs: s(**i)}, repeats)[name]
                except (RuntimeError, MemoryError) as failure:
                    if not is_out_of_memory(failure):
                        raise
                    rows.append(row | {"out_of_memory": True, "correct": True})
                    continue
                rows.append(row | spread(times) | {"correct": True})
    return sorted(rows, key=lambda row: (row["batch"], row["implementation"]))


_BUILD = """
import torch
from benchmarks.step import BIRDS, Models, batch_of, ours
models = Models.build(BIRDS)
"""
STARTS = {
    "authors": _BUILD,
    "dmgan_fast": _BUILD + "ours(models, BIRDS.config)(**batch_of(BIRDS))\n",
}


def time_to_first_step(repeats: int, environment: dict[str, Any]) -> list[dict[str, Any]]:
    """Seconds of a new process: import and building models (authors), import, building and the first step (ours)."""
    times = take_turns(
        {name: lambda c=code: subprocess.run([sys.executable, "-c", c], check=True) for name, code in STARTS.items()},
        repeats,
    )
    row = {"op": "start", "case": "import, build; ours: and the first step", "direction": "process"} | environment
    return [row | {"implementation": name} | spread(runs) | {"correct": True} for name, runs in times.items()]


SETTINGS = {"birds": BIRDS, "coco": COCO, "demo": DEMO}
PARTS = (*SETTINGS, "throughput", "start")


def rows_of(part: str, repeats: int = 5, authors: Path | None = None, compiled: bool = True) -> list[dict[str, Any]]:
    """Every row of one part."""
    environment = environment_of(Target())
    if part == "throughput":
        return throughput(BIRDS, (4, 8, 32), 1, environment)
    if part == "start":
        return time_to_first_step(2, environment)
    rows = case(SETTINGS[part], repeats, authors, environment, compiled and part == "birds")
    show(rows)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the rows here; rows of other cases in it stay")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--authors", type=Path, metavar="PATH", help="a checkout of the authors' DM-GAN, also timed")
    parser.add_argument("--parts", default=",".join(PARTS), help="some of these (default: all)")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    arguments = parser.parse_args()
    parts = arguments.parts.split(",")
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        parser.error(f"--parts: no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    correct = True
    for part in parts:
        rows = in_own_process(rows_of, part, arguments.repeats, arguments.authors, not arguments.no_compile)
        correct = correct and all(row["correct"] for row in rows)
        if arguments.json:
            measured = {(row["op"], row["case"]) for row in rows}
            before = json.loads(arguments.json.read_text()) if arguments.json.exists() else []
            write_rows(arguments.json, [r for r in before if (r["op"], r["case"]) not in measured] + rows)
    if not correct:
        sys.exit("our step differs from the authors' by more than rounding")


if __name__ == "__main__":
    main()
