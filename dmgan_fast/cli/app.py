"""The application that every command belongs to, and its options."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from dmgan_fast._version import __version__

START: Final = "Start here"
TRAIN: Final = "Train, and watch a run"
DATA: Final = "Data"
MEASURE: Final = "Measure and compare"
WEIGHTS: Final = "Exchange weights with other code"
MACHINE: Final = "This machine"

EPILOG = """Examples:

dmgan-fast sample "a red apple" --out images

dmgan-fast train --preset demo --damsm runs/damsm --out runs/gan

dmgan-fast web --weights runs/gan

""" + (
    "Exit status: 0 done; 1 the answer is no (check: unusable data; plan: does not fit; selfcheck: a wrong "
    "kernel); 2 input that can't be used, with one paragraph on standard error; 130 stopped with Ctrl-C; "
    "75 stopped by a scheduler's signal, to be started again. "
    "Results go to standard output, progress and notes to standard error; neither has colours unless it is a "
    "terminal, nor where NO_COLOR is set. `--install-completion` sets up completion in the shell."
)

app = typer.Typer(
    name="dmgan-fast",
    help="DM-GAN: text to image by memory-driven refinement.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dmgan-fast {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Listed for the help: main() reads --debug."""
