"""Several processes against one: ten steps of a small GAN and of its encoders in float64, weight for weight.

    python -m tools.exact_processes --processes 2,3,4

Each case runs on one process with the whole batch, then on P processes with a part each; P need not divide the batch.
Printed is the largest difference of any weight, buffer, average or loss, relative to the largest number of its tensor
(at least 1e-3). Exits with an error above 1e-12.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, distributed, multiprocessing
from torch.distributed.tensor import DTensor

from dmgan_fast.modules import (
    Discriminator,
    DiscriminatorConfig,
    Generator,
    GeneratorConfig,
    ImageEncoder,
    ImageEncoderConfig,
    TextEncoder,
    TextEncoderConfig,
    padding_mask,
)
from dmgan_fast.parallel import Processes
from dmgan_fast.runs.config import PretrainConfig, StepConfig
from dmgan_fast.runs.policy import MemoryPolicy
from dmgan_fast.training.batch import Batch
from dmgan_fast.training.encoders import EncoderStep
from dmgan_fast.training.step import TrainStep

SIDES, WORDS, CHANNELS = (64, 128), 5, 8
BATCH = 7  # divided by none of 2, 3, 4
LIMIT = 1e-12
Found = dict[str, Tensor]


def models(**settings: Any) -> tuple[Generator, list[Discriminator], ImageEncoder]:
    """Small, in float64, the same at every call."""
    torch.manual_seed(3)
    attention = settings.get("refinement") == "attention"
    config = GeneratorConfig(
        image_sizes=SIDES,
        base_channels=2,
        word_channels=CHANNELS,
        condition_channels=4,
        noise_channels=4,
        residual_blocks=1,
        **settings,
    )
    norm: dict[str, Any] = {"spectral_norm": "none", "batch_norm": True} if attention else {}
    discriminators = [
        Discriminator(
            DiscriminatorConfig(image_size=side, base_channels=2, sentence_channels=CHANNELS, **norm)
        ).double()
        for side in SIDES
    ]
    encoder = ImageEncoder(ImageEncoderConfig(kind="compact", channels=CHANNELS, image_size=64, base_channels=2))
    return Generator(config).double(), discriminators, encoder.double()


def batch_of(step: int, size: int = BATCH) -> tuple[Batch, dict[str, Tensor]]:
    """The whole batch of a step, and its noise."""
    draw = torch.Generator().manual_seed(100 + step)
    lengths = torch.randint(1, WORDS + 1, (size,), generator=draw)
    random: Any = {"generator": draw, "dtype": torch.float64}
    mask = padding_mask(lengths, WORDS)
    batch = Batch(
        images=[torch.rand(size, 3, side, side, **random) * 2 - 1 for side in SIDES],
        words=torch.randn(size, CHANNELS, WORDS, **random).masked_fill(mask[:, None], 0),
        sentence=torch.randn(size, CHANNELS, **random),
        padding_mask=mask,
        lengths=lengths,
        class_ids=torch.randint(size - 1, (size,), generator=draw),
    )
    return batch, {name: torch.randn(size, 4, **random) for name in ("noise", "eps")}


def part_of(batch: Batch, rows: range) -> Batch:
    """Some rows of it."""
    part = slice(rows.start, rows.stop)
    of = {name: value[part] for name, value in vars(batch).items() if isinstance(value, Tensor)}
    return Batch(images=[image[part] for image in batch.images], **of)


def gan_steps(processes: Processes, steps: int, config: StepConfig | None = None, **settings: Any) -> Found:
    """Steps of a GAN; on several processes with a part of each batch."""
    generator, discriminators, encoder = models(**settings)
    step = TrainStep(generator, discriminators, encoder.eval(), config or StepConfig(), processes=processes)
    found: Found = {}
    for number in range(steps):
        batch, noise = batch_of(number)
        rows = processes.part(BATCH)
        part = part_of(batch, rows)
        if processes.rows is not None:
            part.images = processes.rows.own(part.images)
        given = {name: x[rows.start : rows.stop] for name, x in noise.items()}
        if number == steps - 1:  # generates its noise itself, from the generator of the first process
            given = {}
            torch.manual_seed(processes.rank)
        losses = step(part, **given)
        found |= {f"loss {number} {name}": loss for name, loss in losses.items()}
    models_ = {"generator": step.generator, "average": step.average.module}
    models_ |= {f"discriminator {k}": each for k, each in enumerate(step.discriminators)}
    for name, model in models_.items():
        state = {key: gathered(value) for key, value in model.state_dict().items() if value.is_floating_point()}
        found |= {f"{name} {key}": value for key, value in state.items()}
    return found


def gathered(value: Tensor) -> Tensor:
    """All of a tensor that processes may hold in parts."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def encoder_steps(processes: Processes, steps: int) -> Found:
    """Steps of the encoders, dropout included."""
    _, _, image_encoder = models()
    text_encoder = TextEncoder(TextEncoderConfig(vocabulary_size=20, word_channels=CHANNELS, embedding_channels=6))
    step = EncoderStep(text_encoder.double(), image_encoder, PretrainConfig(), processes=processes)
    found: Found = {}
    torch.manual_seed(5)
    for number in range(steps):
        batch, _ = batch_of(number)
        captions = torch.randint(20, (BATCH, WORDS), generator=torch.Generator().manual_seed(number))
        rows = processes.part(BATCH)
        part = part_of(batch, rows)
        losses = step(part.images[0], captions[rows.start : rows.stop], part.lengths, part.class_ids)
        found |= {f"loss {number} {name}": loss for name, loss in losses.items()}
    for name, model in (("text", text_encoder), ("image", image_encoder)):
        found |= {f"{name} {key}": value for key, value in model.state_dict().items() if value.is_floating_point()}
    return found


def of_rows(processes: Processes, steps: int, config: StepConfig, *, shard: bool = False, **settings: Any) -> Found:
    """``gan_steps`` of processes that hold images together: all of 2 or 3, of 4 each two, with a part of the batch."""
    if processes.group is not None:
        processes = Processes.of(processes.group, rows=2 if processes.size == 4 else processes.size, shard=shard)
    return gan_steps(processes, steps, config, **settings)


def of_shards(processes: Processes, steps: int, config: StepConfig | None = None, **settings: Any) -> Found:
    """``gan_steps`` of processes that hold weights in parts."""
    if processes.group is not None:
        processes = Processes.of(processes.group, shard=True)
    return gan_steps(processes, steps, config, **settings)


CASES: dict[str, Callable[[Processes, int], Found]] = {
    "dm-gan": gan_steps,
    "attngan": lambda processes, steps: gan_steps(processes, steps, refinement="attention"),
    "tiles": lambda processes, steps: gan_steps(
        processes, steps, StepConfig(memory=MemoryPolicy(checkpointing="tile", tile_rows=16, micro_batch=2))
    ),
    "together": lambda processes, steps: gan_steps(processes, steps, StepConfig(memory=MemoryPolicy(together=True))),
    "blocks": lambda processes, steps: gan_steps(
        processes, steps, StepConfig(memory=MemoryPolicy(checkpointing="block", micro_batch=1))
    ),
    "encoders": encoder_steps,
    "rows": lambda processes, steps: of_rows(
        processes,
        steps,
        StepConfig(memory=MemoryPolicy(checkpointing=("none", "op"), micro_batch=2)),
        detach_image_mean=False,
    ),
    "rows of attngan": lambda processes, steps: of_rows(
        processes, steps, StepConfig(memory=MemoryPolicy(checkpointing="block")), refinement="attention"
    ),
    "shards": of_shards,
    "shards of attngan": lambda processes, steps: of_shards(
        processes, steps, StepConfig(memory=MemoryPolicy(checkpointing="block")), refinement="attention"
    ),
    "shards together": lambda processes, steps: of_shards(
        processes, steps, StepConfig(memory=MemoryPolicy(together=True, checkpointing="tile", tile_rows=16))
    ),
    "shards of rows": lambda processes, steps: of_rows(
        processes, steps, StepConfig(memory=MemoryPolicy(checkpointing="stage", micro_batch=1)), shard=True
    ),
}


def difference(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> tuple[float, str]:
    """The largest of any tensor, relative to its largest number (at least 1e-3), and its name."""
    if found.keys() != wanted.keys():
        return float("inf"), f"names differ: {found.keys() ^ wanted.keys()}"
    return max(
        (float((found[name] - value).abs().max() / value.abs().max().clamp(min=1e-3)), name)
        for name, value in wanted.items()
    )


def worker(rank: int, size: int, folder: str, cases: Sequence[str], steps: int) -> None:
    """One of ``size`` processes; it leaves what it found in ``folder``."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting-{size}", rank=rank, world_size=size)
    try:
        found = {case: CASES[case](Processes.of(), steps) for case in cases}
        torch.save(found, Path(folder) / f"{size}-{rank}.pt")
    finally:
        distributed.destroy_process_group()


def on_processes(size: int, cases: Sequence[str], steps: int, folder: Path) -> list[dict[str, Found]]:
    """What each process found, by case."""
    if size == 1:
        return [{case: CASES[case](Processes(), steps) for case in cases}]
    multiprocessing.spawn(worker, (size, str(folder), cases, steps), nprocs=size)
    return [torch.load(folder / f"{size}-{rank}.pt", weights_only=True) for rank in range(size)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", default="2,3,4", help="how many, with commas (default 2,3,4)")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--cases", default=",".join(CASES), help=f"of {','.join(CASES)} (default: all)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cases, worst = arguments.cases.split(","), 0.0
    table = Table(
        "case", "processes", "largest difference", "of", title=f"{arguments.steps} steps in float64, batch {BATCH}"
    )
    with TemporaryDirectory() as folder:
        (wanted,) = on_processes(1, cases, arguments.steps, Path(folder))
        for size in map(int, arguments.processes.split(",")):
            found = on_processes(size, cases, arguments.steps, Path(folder))
            for case in cases:
                largest, name = max(difference(each[case], wanted[case]) for each in found)
                worst = max(worst, largest)
                table.add_row(case, str(size), f"{largest:.1e}", name)
    Console(width=120).print(table)
    if worst > LIMIT:
        sys.exit(f"a difference is above {LIMIT}")


if __name__ == "__main__":
    main()
