"""Errors a user can act on. Each message names what was given and what is allowed."""

import math
from collections.abc import Callable
from typing import Any


class DMGANError(Exception):
    """Base of every error the library raises on purpose; the command line prints it as one paragraph.

    ``told_elsewhere``: of several processes, another one prints it.
    """

    told_elsewhere = False


class InputError(DMGANError, ValueError):
    """An argument or a configuration value is not allowed."""


class DataError(DMGANError):
    """An image, caption or data-set file is missing, unreadable or hostile."""


class CheckpointError(DMGANError):
    """A checkpoint is missing, unreadable or does not fit the model."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint is not what was written; the one before it may be whole."""


class NonFiniteLossError(DMGANError):
    """A loss became NaN or infinite; the last checkpoint is from before."""


class Interrupted(DMGANError):
    """Ctrl-C: the state is saved and ``--resume`` continues."""


class Preempted(Interrupted):
    """A scheduler wants its machine back: the state is saved and ``--resume`` continues."""


class ProcessError(DMGANError, RuntimeError):
    """One of several processes failed, differs from the others or can't be reached."""


class BackendError(DMGANError, RuntimeError):
    """The requested backend cannot run here; the message says why."""


class OutOfMemory(DMGANError, MemoryError):
    """Memory ran out; the message says what was being done, what it needs, and what would fit."""


def require(condition: bool, message: Callable[[], str] | str) -> None:
    """Raise ``InputError`` unless the condition holds; a message with numbers in it is only then asked for."""
    if not condition:
        raise InputError(message if isinstance(message, str) else message())


def require_flags(where: str, **flags: Any) -> None:
    """Raise ``InputError``, which begins with ``where``, unless each of ``flags`` is True or False."""
    for name, value in flags.items():
        if value is not True and value is not False:
            raise InputError(f"{where}: {name} must be True or False, got {value!r}")


def require_number(
    where: str, name: str, value: Any, *, least: float = -math.inf, most: float = math.inf, whole: bool = False
) -> None:
    """Raise ``InputError``, which begins with ``where``, unless a finite number from ``least`` to ``most`` is given."""
    kinds = int if whole else (int, float)
    if isinstance(value, kinds) and not isinstance(value, bool) and least <= value <= most and math.isfinite(value):
        return
    what = "a whole number" if whole else "a finite number"
    if least > -math.inf:
        what += f" from {least} to {most}" if most < math.inf else f", at least {least}"
    raise InputError(f"{where}: {name} must be {what}, got {value!r}")
