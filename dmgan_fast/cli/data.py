"""``check``, ``convert`` and ``shard``: data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dmgan_fast.cli.app import DATA, app
from dmgan_fast.cli.options import SkipBad, working

if TYPE_CHECKING:
    from dmgan_fast.data import Report

EXIT_BAD_DATA = 1
DEFAULT_SIZE = 256


@app.command(rich_help_panel=DATA, epilog="Example: dmgan-fast check data/birds --damsm runs/damsm --json")
def check(
    data: Annotated[str, typer.Argument(metavar="DATA", help="'demo' or a folder, in any layout of docs/data.md.")],
    size: Annotated[
        int, typer.Option(min=1, help="Name images smaller than this resolution, as --size 512.")
    ] = DEFAULT_SIZE,
    damsm: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Encoders whose words to compare with the captions', as --damsm runs/damsm."),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Images per step that there must be enough of, as --batch 48.")
    ] = None,
    decode: Annotated[
        bool,
        typer.Option(
            "--decode",
            help="Read all of every image: dmgan-fast check DATA --decode. Default: all of a small set, else headers "
            "and ends of 10,000.",
        ),
    ] = False,
    skip_bad: SkipBad = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report as JSON, with all names: dmgan-fast check DATA --json.")
    ] = False,
) -> None:
    """Look at a data set before training: what is missing, damaged, duplicated or useless for training.

    Every run does so in its first seconds. Exit status 1: a run would refuse this set.
    """
    report = _look(data, size=size, damsm=damsm, batch=batch, decode=decode, skip_bad=skip_bad)
    typer.echo(report.to_json() if as_json else report.text())
    if report.errors:
        raise typer.Exit(EXIT_BAD_DATA)


@app.command(rich_help_panel=DATA, epilog="Example: dmgan-fast convert data/coco --out data/mine")
def convert(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A folder in any layout of docs/data.md.")],
    out: Annotated[Path, typer.Option(help="Folder to write: images and captions.jsonl; not there yet, or empty.")],
    skip_bad: SkipBad = None,
) -> None:
    """Copy a data set of any layout to a folder with captions.jsonl; images stay as they are."""
    from dmgan_fast.data import convert as write

    report = _look(data, size=1)
    with working("copying images", len(report.facts.contents.rows)) as tick:
        count, left_out = write(report, out, skip_bad=skip_bad or 0, tick=tick)
    for item in left_out:
        typer.echo(f"left out: {item.why}", err=True)
    typer.echo(f"{count} images in {out}")


@app.command(
    rich_help_panel=DATA, epilog="Example: dmgan-fast shard data/coco --out s3://bucket/coco --shard-size 256MiB"
)
def shard(
    data: Annotated[str, typer.Argument(metavar="DATA", help="'demo' or a folder, in any layout of docs/data.md.")],
    out: Annotated[
        str,
        typer.Option(
            metavar="DIR|URL",
            help="Folder to write, not there yet or empty, or an address that fsspec knows: --out s3://bucket/birds.",
        ),
    ],
    shard_size: Annotated[
        str, typer.Option("--shard-size", metavar="SIZE", help="Of an archive, at the most, as --shard-size 1GiB.")
    ] = "256MiB",
    window: Annotated[
        int, typer.Option(min=1, help="Archives whose images training shuffles together, as --window 32.")
    ] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Of the order of the images.")] = 0,
    skip_bad: SkipBad = None,
) -> None:
    """Write a data set of any layout as WebDataset shards with an index, to train on from anywhere."""
    from dmgan_fast.data import shard as write
    from dmgan_fast.sizes import parse_size

    size = parse_size(shard_size, "--shard-size")
    report = _look(data, size=1)
    with working("writing shards"):
        count, shards, left_out = write(report, out, skip_bad=skip_bad or 0, shard_bytes=size, window=window, seed=seed)
    for item in left_out:
        typer.echo(f"left out: {item.why}", err=True)
    typer.echo(f"{count} images in {shards} shards in {out}")


def _look(
    data: str,
    *,
    size: int,
    damsm: Path | None = None,
    batch: int | None = None,
    decode: bool = False,
    skip_bad: int | None = None,
) -> Report:
    from dmgan_fast.data import Purpose, check_data
    from dmgan_fast.sampling.bundle import open_bundle

    words = open_bundle(damsm, "text_encoder").vocabulary if damsm else None
    with working("looking at the images") as tick:
        purpose = Purpose(image_size=size, batch_size=batch, skip_bad=skip_bad or 0)
        return check_data(data, purpose, vocabulary=words, decode=decode, tick=tick)
