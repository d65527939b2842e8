"""``benchmark`` and ``info``: this machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from dmgan_fast.cli.app import app
from dmgan_fast.errors import InputError


@app.command(epilog="Example: dmgan-fast benchmark --report benchmarks.html")
def benchmark(
    report: Annotated[Path, typer.Option(metavar="FILE", help="The page to write: one HTML file with all figures.")],
    run: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="PART,...", help="Measure first: all, or some of the parts; default: only committed results."
        ),
    ] = None,
    authors: Annotated[Optional[Path], typer.Option(help="A checkout of the authors' DM-GAN, also timed.")] = None,  # noqa: UP045
) -> None:
    """Speed and memory against the authors' code and other rivals, as a page; in a checkout of this project."""
    import subprocess

    root = Path(__file__).parents[2]
    if not (root / "benchmarks" / "all.py").is_file():
        raise InputError("benchmark: the benchmarks are not in the package; run it in a checkout of the project")
    if run is None and authors is not None:
        raise InputError("benchmark: --authors times their code, which needs --run")
    command = [sys.executable, "-m", "benchmarks.report.page", str(report.absolute())]
    if run is not None:
        command = [sys.executable, "-m", "benchmarks.all", "--report", str(report.absolute())]
        command += [] if run == "all" else ["--only", run]
        command += ["--authors", str(authors.absolute())] if authors else []
    status = subprocess.run(command, cwd=root).returncode
    if status:
        raise typer.Exit(status)
    typer.echo(report)


@app.command(epilog="Example: dmgan-fast info --json")
def info(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Versions, devices, and which backend can run each op here."""
    from dmgan_fast.info import collect

    table = collect()
    if as_json:
        typer.echo(json.dumps(table, indent=2))
        return
    for name, value in table.items():
        if name == "ops":
            for op, backends in value.items():
                typer.echo(f"{op}:")
                for backend, answer in backends.items():
                    typer.echo(f"  {backend:<10} {answer}")
        elif isinstance(value, dict):
            typer.echo(f"{name}: " + ", ".join(f"{key} {text}" for key, text in value.items()))
        else:
            typer.echo(f"{name}: {', '.join(value) or 'none' if isinstance(value, list) else value}")
