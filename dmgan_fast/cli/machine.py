"""``benchmark``, ``info`` and ``selfcheck``: this machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from dmgan_fast.cli.app import MACHINE, app
from dmgan_fast.errors import InputError


@app.command(rich_help_panel=MACHINE, epilog="Example: dmgan-fast benchmark --report benchmarks.html")
def benchmark(
    report: Annotated[Path, typer.Option(metavar="FILE", help="The page to write: one HTML file with all figures.")],
    run: Annotated[
        str | None,
        typer.Option(
            metavar="PART,...", help="Measure first: all, or some of the parts; default: only committed results."
        ),
    ] = None,
    authors: Annotated[Path | None, typer.Option(help="A checkout of the authors' DM-GAN, also timed.")] = None,
) -> None:
    """Write a page of speed and memory against the authors' code and other rivals; needs a checkout of this project."""
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


@app.command(rich_help_panel=MACHINE, epilog="Example: dmgan-fast info --json")
def info(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Print what a bug report needs: versions, devices, compilers, environment, and which backend runs each op here."""
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
            typer.echo(f"{name}: " + (", ".join(f"{key} {text}" for key, text in value.items()) or "none"))
        else:
            typer.echo(f"{name}: {', '.join(value) or 'none' if isinstance(value, list) else value}")


@app.command(rich_help_panel=MACHINE, epilog="Example: dmgan-fast selfcheck --backend triton")
def selfcheck(
    backend: Annotated[str | None, typer.Option(help="Only this one: cpu, cuda, triton or aten.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, a line for each check.")] = False,
) -> None:
    """Compare each kernel that can run here with the reference, on small and odd shapes; exits with 1 if one is wrong.

    A GPU's kernels are checked by themselves before their first use there, and a wrong one is not used;
    DMGAN_FAST_SELFCHECK=0 skips that.
    """
    from dataclasses import asdict

    from dmgan_fast.ops import _backends, selfcheck

    if backend is not None and backend not in _backends.REGISTRY:
        raise InputError(f"--backend must be one of {', '.join(_backends.REGISTRY)}, got {backend!r}")
    names = [backend] if backend else list(_backends.REGISTRY)
    places = [(name, place) for name in names for place in _backends.REGISTRY[name].devices()]
    wrong, passed_over = [], set()
    for row in selfcheck.check_all(places, _backends.why_not):
        if as_json:
            typer.echo(json.dumps(asdict(row)))
        elif row.right is not None:
            answer = "right" if row.right else f"WRONG: {row.fault}"
            typer.echo(f"{row.backend:<7} {row.device:<5} {row.op:<17} {row.dtype:<9} {answer}")
        elif (row.backend, row.device, row.fault) not in passed_over:
            passed_over.add((row.backend, row.device, row.fault))
            typer.echo(f"{row.backend:<7} {row.device:<5} {row.op}, ... not checked: {row.fault}")
        wrong += [f"{row.op} on {row.backend} in {row.dtype}"] if row.right is False else []
    if wrong:
        typer.echo(
            f"wrong here: {', '.join(wrong)}. On a GPU, auto takes another backend; DMGAN_FAST_BACKEND=reference "
            "avoids them all. Please report it with the output of `dmgan-fast info`.",
            err=True,
        )
        raise typer.Exit(1)
