"""``dmgan-fast``: train, sample, and look at what runs where. Each module here is one group of commands."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from importlib import import_module

import typer

from dmgan_fast.cli.app import app
from dmgan_fast.cli.stderr import without_traces
from dmgan_fast.errors import DMGANError, Interrupted, Preempted

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
EXIT_REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: try again later
# Commands that run native ops.
DRAWING = {"demo", "pretrain", "train", "sample", "evaluate", "ablate", "study", "web", "report"}

for group in ("train", "data", "sample", "web", "transfer", "evaluate", "report", "experiments", "machine"):
    import_module(f"dmgan_fast.cli.{group}")  # adds its commands, in the order of the help


def main() -> None:
    """Run; an error that a user can act on is one paragraph and exits with 2, Ctrl-C with 130, a scheduler with 75."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments  # wherever it stands
    try:
        with nullcontext() if debug or _command(arguments) not in DRAWING else without_traces():
            status = app([argument for argument in arguments if argument != "--debug"], standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)  # what typer.Exit carried, if a command raised it
    except (KeyboardInterrupt, typer.Abort):
        print("stopped", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except DMGANError as error:
        if debug:
            raise
        if not error.told_elsewhere:
            print(f"dmgan-fast: {error}", file=sys.stderr)
        sys.exit(_status(error))
    except Exception as error:
        if not debug and _is_out_of_memory(error):
            print(f"dmgan-fast: {_levers(arguments, error)}", file=sys.stderr)
            sys.exit(EXIT_BAD_INPUT)
        if debug or not hasattr(error, "format_message"):  # click's own: bad options
            raise
        print(f"dmgan-fast: {error.format_message()}", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)


def _status(error: DMGANError) -> int:
    if isinstance(error, Preempted):
        return EXIT_REQUEUE
    return EXIT_INTERRUPTED if isinstance(error, Interrupted) else EXIT_BAD_INPUT


def _is_out_of_memory(error: Exception) -> bool:
    if "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from dmgan_fast.out_of_memory import is_out_of_memory

    return is_out_of_memory(error)


def _levers(arguments: list[str], error: Exception) -> str:
    """What to do where nothing nearer to it knew better."""
    from dmgan_fast.devices import pick_device
    from dmgan_fast.out_of_memory import levers

    return levers(_command(arguments), error, pick_device("auto"))


def _command(arguments: list[str]) -> str:
    return next((argument for argument in arguments if not argument.startswith("-")), "")
