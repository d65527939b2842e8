"""Errors a user can act on. Each message names what was given and what is allowed."""

from collections.abc import Callable


class DMGANError(Exception):
    """Base of every error the library raises on purpose; the command line prints it as one paragraph.

    ``told_elsewhere``: of several processes, another one prints it.
    """

    told_elsewhere = False


class InputError(DMGANError, ValueError):
    """An argument or a configuration value is not allowed."""


class DataError(DMGANError):
    """A picture, caption or data-set file is missing, unreadable or hostile."""


class CheckpointError(DMGANError):
    """A checkpoint is missing, unreadable or does not fit the model."""


class NonFiniteLossError(DMGANError):
    """A loss became NaN or infinite; the last checkpoint is from before."""


class Interrupted(DMGANError):
    """Ctrl-C: the state is saved and ``--resume`` continues."""


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
