"""``report``: a run as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dmgan_fast.cli.app import TRAIN, app
from dmgan_fast.cli.options import working


@app.command(rich_help_panel=TRAIN, epilog="Example: dmgan-fast report runs/gan --out gan.html")
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run of train or pretrain, finished or not.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The page to write: --out gan.html. Default: RUN/report.html.")
    ] = None,
    captions: Annotated[
        list[str] | None,
        typer.Option(
            "--caption",
            metavar="TEXT",
            help='Generate from it, with maps, as --caption "a red bird"; may be repeated. Default: held-out captions.',
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise.")] = 0,
) -> None:
    """Write a run as one page: curves, samples over time, attention, metrics, memory, environment."""
    from dmgan_fast.run_report import write_report

    with working("writing the report"):
        page = write_report(run, out, captions=captions or (), seed=seed)
    typer.echo(f"open {page}")
