"""``web``: a page to play with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dmgan_fast.cli.app import START, app
from dmgan_fast.cli.options import Device, Threads, use_threads, working

RUNS = Path("runs")


@app.command(rich_help_panel=START, epilog="Example: dmgan-fast web --weights runs/gan --port 8000")
def web(
    weights: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIR|OWNER/NAME",
            help="A run, its weights, or a Hub id to offer beside the shipped weights, as --weights runs/gan; may be "
            "repeated.",
        ),
    ] = None,
    runs: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Offer every run below this folder: --runs experiments. Default: runs, if there."
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; --host 0.0.0.0 lets every machine of the network in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 7860,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Serve a page that generates images in a browser and shows attention, gates, and images between two captions.

    Needs `pip install 'dmgan-fast\\[web]'`. Stops with Ctrl-C.
    """
    from dmgan_fast.web.models import find_models
    from dmgan_fast.web.server import serve
    from dmgan_fast.web.studio import Studio

    use_threads(threads)
    with working("looking for models"):
        models = find_models(weights or (), runs or (RUNS if RUNS.is_dir() else None), device=device)
    serve(Studio(models), host=host, port=port, ready=lambda address: typer.echo(f"open {address} (Ctrl-C stops it)"))
