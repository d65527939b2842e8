"""What ends a training after the step at work: Ctrl-C, and the signals of a scheduler that wants its machine back."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from dmgan_fast.errors import Interrupted, Preempted

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
