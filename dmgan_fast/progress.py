"""Progress of long work: bars on a terminal; elsewhere, as in a log file, a line every 15 seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

from rich import progress
from rich.console import Console
from rich.progress import ProgressColumn, Task, TaskID
from typing_extensions import Self

INTERVAL = 15.0  # seconds between lines


class Progress(progress.Progress):
    """As rich's; lines also come while a step takes long.

    ``clock``: seconds; ``wait``: sleeps for so many seconds, and returns True as soon as the work is done.
    """

    def __init__(
        self,
        *columns: ProgressColumn,
        console: Console | None = None,
        disable: bool = False,
        redirect_stdout: bool = True,
        transient: bool = False,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        console = console or Console(stderr=True)
        options: dict[str, Any] = {"disable": disable, "redirect_stdout": redirect_stdout, "transient": transient}
        super().__init__(*columns, console=console, get_time=clock, **options)
        self._done = Event()
        self._wait = wait or self._done.wait
        self._first: dict[TaskID, float] = {}  # steps that were done before
        self._lines = None if console.is_terminal or disable else Thread(target=self.write_lines, daemon=True)

    def add_task(self, *arguments: Any, **options: Any) -> TaskID:
        """As rich's."""
        task = super().add_task(*arguments, **options)
        self._first[task] = self.tasks[-1].completed
        return task

    def __enter__(self) -> Self:
        super().__enter__()
        if self._lines is not None:
            self._lines.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._done.set()
        if self._lines is not None:
            self._lines.join()
        super().__exit__(*error)

    def stop(self) -> None:
        """As rich's, which ends what it leaves off a terminal with a line's end, even if that is nothing."""
        if self.live.transient:
            self.live.stop()
        else:
            super().stop()

    def write_lines(self) -> None:
        """One for each task that is under way, every 15 seconds until the work is done."""
        while not self._wait(INTERVAL):
            for task in self.tasks:
                if not task.finished:
                    self.console.print(self._line(task), soft_wrap=True, markup=False, highlight=False)

    def _line(self, task: Task) -> str:
        passed = task.elapsed or 0.0
        words = [f"{show_time(passed)} so far"]
        if task.total or task.completed:
            words.insert(0, f"{task.completed:.0f}" + (f" of {task.total:.0f}" if task.total else ""))
        done = task.completed - self._first[task.id]
        if task.total and done > 0:
            words.append(f"about {show_time(passed / done * (task.total - task.completed))} to go")
        return f"{task.description}: " + ", ".join(words + [str(value) for value in task.fields.values() if value])


def in_steps() -> tuple[ProgressColumn, ...]:
    """Columns of work whose steps are counted."""
    bar = (progress.TextColumn("{task.description}"), progress.BarColumn(), progress.MofNCompleteColumn())
    return *bar, progress.TimeElapsedColumn(), progress.TimeRemainingColumn()


@contextmanager
def working(what: str, total: int | None = None) -> Iterator[Callable[[], None]]:
    """Within, progress of ``what`` is shown: of ``total`` steps with the time left, else with the time so far.

    Yields:
        what is called after each step, from any thread.
    """
    spinner = (progress.TextColumn("{task.description}"), progress.SpinnerColumn(), progress.TimeElapsedColumn())
    columns = in_steps() if total else spinner
    # What is piped elsewhere is not for the terminal that shows the bar; a spinner leaves nothing behind.
    with Progress(*columns, redirect_stdout=sys.stdout.isatty(), transient=not total) as shown:
        task = shown.add_task(what, total=total)
        yield lambda: shown.advance(task)


def show_time(seconds: float) -> str:
    """``"40 s"``, ``"3.5 min"`` or ``"2.1 h"``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
