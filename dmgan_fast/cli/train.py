"""``demo``, ``pretrain``, ``train`` and ``plan``: what makes models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dmgan_fast.cli.app import START, TRAIN, app
from dmgan_fast.cli.options import (
    Batch,
    ConfigFile,
    DataFolder,
    Precision,
    Preset,
    Resume,
    Settings,
    Size,
    SkipBad,
    Threads,
    first_process,
    generator_values,
    notices,
    refuse_processes,
    run_values,
    use_threads,
    working,
)

EXIT_DOES_NOT_FIT = 1


@app.command(rich_help_panel=START, epilog="Example: dmgan-fast demo --out demo_out")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("demo_out"),
    pretrain_steps: Annotated[int, typer.Option(min=1, help="Steps of the encoders.")] = 300,
    train_steps: Annotated[int, typer.Option(min=1, help="Steps of the GAN.")] = 300,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, noise and order.")] = 0,
) -> None:
    """Train on the embedded images for a few minutes, generate from captions, write index.html."""
    from dmgan_fast.demo import run_demo

    refuse_processes("demo")
    page = run_demo(out, pretrain_steps=pretrain_steps, train_steps=train_steps, seed=seed)
    typer.echo(f"open {page}")


@app.command(rich_help_panel=TRAIN, epilog="Example: dmgan-fast pretrain --data data/birds --out runs/damsm")
def pretrain(
    out: Annotated[Path, typer.Option(help="Folder for logs, checkpoints and weights.")],
    data: DataFolder = None,
    config: ConfigFile = None,
    preset: Preset = "birds",
    settings: Settings = None,
    batch: Batch = None,
    skip_bad: SkipBad = None,
    resume: Resume = False,
    threads: Threads = None,
) -> None:
    """Train the text and image encoders (DAMSM).

    Under torchrun its processes train them together: torchrun --nproc-per-node 4 -m dmgan_fast pretrain ...
    """
    from dmgan_fast.runs.config import PretrainConfig
    from dmgan_fast.runs.presets import build_config
    from dmgan_fast.training import damsm

    use_threads(threads)
    values = run_values(data, skip_bad, batch)
    built = build_config(PretrainConfig, preset=preset, file=config, overrides=settings or [], values=values)
    with notices():
        damsm.pretrain(built, out, resume=resume)
    if first_process():
        typer.echo(f"weights in {out / 'weights'}")


@app.command(
    rich_help_panel=TRAIN,
    epilog="Example: dmgan-fast train --data data/birds --damsm runs/damsm --out runs/birds --resume",
)
def train(
    out: Annotated[Path, typer.Option(help="Folder for logs, checkpoints and weights.")],
    damsm: Annotated[
        Path | None,
        typer.Option(
            help="A `pretrain` run, its best/, one of its checkpoints, or imported encoders; in the config `encoders:`."
        ),
    ] = None,
    data: DataFolder = None,
    config: ConfigFile = None,
    preset: Preset = "birds",
    settings: Settings = None,
    size: Size = None,
    batch: Batch = None,
    dtype: Precision = None,
    memory: Annotated[
        str | None,
        typer.Option(help="Budget, as 24GiB: choose what is saved for backward and what is recomputed to fit it."),
    ] = None,
    init_from: Annotated[
        Path | None,
        typer.Option(
            "--init-from",
            help="Start from a run or weights, with their discriminators if there are any; new stages start fresh.",
        ),
    ] = None,
    skip_bad: SkipBad = None,
    resume: Resume = False,
    threads: Threads = None,
) -> None:
    """Train the GAN.

    Under torchrun its processes train it together: torchrun --nproc-per-node 4 -m dmgan_fast train ...

    What no device holds they divide: images with --set parallel.rows=4, weights and optimisers with --set
    parallel.shard=true.
    """
    from dmgan_fast.runs.config import TrainConfig
    from dmgan_fast.runs.presets import build_config
    from dmgan_fast.training import trainer
    from dmgan_fast.training.planning.planner import fit

    use_threads(threads)
    values = run_values(data, skip_bad, batch)
    values |= {"encoders": str(damsm)} if damsm else {}
    values |= {"init_from": str(init_from)} if init_from else {}
    values |= generator_values(size, dtype)
    built = build_config(TrainConfig, preset=preset, file=config, overrides=settings or [], values=values)
    if memory is not None:
        built, plan = fit(built, memory)
        if first_process():
            typer.echo(plan.explain(), err=True)
    with notices():
        trainer.train(built, out, resume=resume)
    if first_process():
        typer.echo(f"weights in {out / 'weights'}")


@app.command(
    rich_help_panel=TRAIN, epilog="Example: dmgan-fast plan --size 1024 --batch 10 --dtype bf16 --memory 24GiB"
)
def plan(
    size: Size = None,
    batch: Annotated[int | None, typer.Option(help="Images per step; default: the preset's.")] = None,
    dtype: Precision = None,
    memory: Annotated[str | None, typer.Option(help="Budget, as 24GiB; default: all the device has.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda, which need not be here.")] = None,
    config: ConfigFile = None,
    preset: Preset = "birds",
    settings: Settings = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Compute what memory a training step needs, and the cheapest way to make it fit."""
    from dmgan_fast.runs.config import TrainConfig
    from dmgan_fast.runs.presets import build_config
    from dmgan_fast.sizes import parse_size
    from dmgan_fast.training.planning import planner

    values = generator_values(size, dtype)
    built = build_config(TrainConfig, preset=preset, file=config, overrides=settings or [], values=values)
    budget = parse_size(memory) if memory else planner.device_memory(device)
    batch_size = batch or built.loop.batch_size
    with working("running steps without data"):
        found = planner.plan(built, batch_size=batch_size, memory_bytes=budget, device=device)
        text = found.to_json() if as_json else found.explain()  # looks for the largest batch and resolution
    typer.echo(text)
    if not found.fits:
        raise typer.Exit(EXIT_DOES_NOT_FIT)
