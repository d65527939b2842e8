"""``ablate`` and ``study``: the paper's experiments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dmgan_fast.cli.app import MEASURE, app
from dmgan_fast.cli.options import (
    ConfigFile,
    DataFolder,
    Preset,
    Settings,
    Threads,
    first_process,
    refuse_processes,
    split_names,
    use_threads,
)


@app.command(
    rich_help_panel=MEASURE,
    epilog="Example: dmgan-fast ablate --variants dm-gan,attention,no-text --set loop.steps=400 --out runs/ablation",
)
def ablate(
    out: Annotated[
        Path, typer.Option(help="Folder for runs, table and figure; the same command continues after a stop.")
    ],
    variants: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help="What to compare with the first; also KEY=VALUE. Default: the paper's."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each variant.")] = 3,
    count: Annotated[int, typer.Option(min=2, help="Images generated for each evaluation.")] = 2000,
    metrics: Annotated[str | None, typer.Option(metavar="NAME,...", help="Those of evaluate.")] = None,
    damsm: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Folder of a finished `pretrain`; default: the preset's, trained first."),
    ] = None,
    judge: Annotated[
        str | None, typer.Option(metavar="DIR", help="Encoders to measure with; default: those of the training.")
    ] = None,
    data: DataFolder = None,
    config: ConfigFile = None,
    preset: Preset = "demo",
    settings: Settings = None,
    threads: Threads = None,
) -> None:
    """Train variants of one GAN from the same seeds for the same steps, and compare them.

    Variants: dm-gan, attention, memory, memory+writing-gate, memory+response-gate, words-only, sentence-only, no-text,
    no-damsm, official-masks, no-refinement, one-refinement, two-refinements, or any setting, as step.damsm_weight=5.

    Under torchrun each run is shared: torchrun --nproc-per-node 4 -m dmgan_fast ablate ...
    """
    from dmgan_fast.experiments import ablation

    use_threads(threads)
    ablation.ablate(
        out,
        variants=split_names(variants) or ablation.PAPER,
        seeds=seeds,
        metrics=split_names(metrics) or ablation.MEASURES,
        count=count,
        preset=preset,
        file=config,
        settings=settings or [],
        data=data,
        damsm=damsm,
        judge=judge,
    )
    if first_process():
        typer.echo((out / f"{ablation.NAME}.md").read_text(encoding="utf-8"))


@app.command(
    rich_help_panel=MEASURE, epilog="Example: dmgan-fast study recovery --runs runs/ablation --out runs/studies"
)
def study(
    name: Annotated[str, typer.Argument(help="recovery, writing-gate, memory or gates.")],
    runs: Annotated[Path, typer.Option(help="What ablate wrote.")],
    out: Annotated[Path, typer.Option(help="Folder for NAME.json, NAME.md and NAME.png.")],
    threads: Threads = None,
) -> None:
    """Measure what the memory does, on the runs of an ablation (docs/studies.md)."""
    from dmgan_fast import experiments

    refuse_processes("study")
    use_threads(threads)
    typer.echo(experiments.study(name, runs, out).read_text(encoding="utf-8"))
