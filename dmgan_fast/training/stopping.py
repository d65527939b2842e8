"""What ends a training before its last step: Ctrl-C, a scheduler that wants its machine back, readers that ended."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from dmgan_fast.errors import DataError, Interrupted, Preempted

# Slurm and Kubernetes send SIGTERM, Slurm also what --signal asks for.
OF_SCHEDULERS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))


class Stop:
    """True once something has asked for the end; ``by`` says what."""

    by: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.by is not None

    def error(self, step: int) -> Interrupted:
        """What to raise once the state of ``step`` is saved."""
        if self.by is None or self.by is signal.SIGINT:
            return Interrupted(f"stopped at step {step}; the state is saved, --resume continues it")
        return Preempted(f"stopped at step {step} by {self.by.name}; the state is saved, --resume continues it")


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Within, the first Ctrl-C, SIGTERM or SIGUSR1 sets the ``Stop``, for the step to finish; the next Ctrl-C stops at
    once, further signals of a scheduler change nothing.
    """
    stop = Stop()

    def ask(number: int, frame: FrameType | None) -> None:
        if stop and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.by = stop.by or signal.Signals(number)

    before = {}
    try:
        for number in (signal.SIGINT, *OF_SCHEDULERS):
            before[number] = signal.signal(number, ask)
    except ValueError:  # not in the main thread: the caller handles signals
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def told_of_readers(stop: Stop) -> Iterator[None]:
    """Within, the end of a process that reads, and what one could not read, are errors of one line.

    PyTorch raises them wherever the training stands, in the middle of a step too: nothing can be saved then.
    """
    try:
        yield
    except DataError as error:
        raise DataError(_own_message(error)) from None
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        if stop.by is not None:
            raise Preempted(
                f"stopped by {stop.by.name}, which also ended a process that reads data, in the middle of a step; "
                "--resume goes on from the last checkpoint"
            ) from None
        raise DataError(
            f"a process that reads data ended ({str(error).splitlines()[0].strip()}); if memory ran out, take fewer of "
            "them (--set data.workers=1); --resume goes on from the last checkpoint"
        ) from None


def _own_message(error: DataError) -> str:
    """Without the traceback that PyTorch puts around an error of a process that reads."""
    text = str(error)
    return text.rpartition(f"{DataError.__name__}: ")[2].strip() if "Original Traceback" in text else text
