"""The application that every command belongs to, and its options."""

from __future__ import annotations

from typing import Annotated

import typer

from dmgan_fast._version import __version__

app = typer.Typer(
    name="dmgan-fast",
    help="DM-GAN: text to picture by memory-driven refinement.",
    no_args_is_help=True,
    add_completion=False,
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
