"""Progress where standard error is no terminal. Time is a number here: nothing sleeps."""

import io

import pytest
from rich.console import Console

from dmgan_fast.progress import INTERVAL, Progress, show_time, working


class Clock:
    """Work that takes ``seconds`` for each of ``steps`` steps, done while somebody waits."""

    def __init__(self, seconds, steps):
        self.now, self.done, self.seconds, self.steps = 0.0, 0, seconds, steps
        self.progress = self.task = None

    def __call__(self):
        return self.now

    def wait(self, seconds):
        self.now += seconds
        self.done = min(int(self.now / self.seconds), self.steps)
        self.progress.update(self.task, completed=self.first + self.done)
        return self.done == self.steps


def lines_of(clock, *, terminal=False, first=0, **fields):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=40)
    clock.progress = Progress(console=console, clock=clock, wait=clock.wait)
    clock.first = first
    clock.task = clock.progress.add_task("gan", total=first + clock.steps, completed=first, **fields)
    with clock.progress:
        if not terminal:
            clock.progress._lines.join()  # it does all the work
    return [line for line in stream.getvalue().splitlines() if line.startswith("gan:")]


def test_a_line_comes_every_15_seconds():
    assert INTERVAL == 15
    assert lines_of(Clock(seconds=5, steps=12)) == [
        "gan: 3 of 12, 15 s so far, about 45 s to go",
        "gan: 6 of 12, 30 s so far, about 30 s to go",
        "gan: 9 of 12, 45 s so far, about 15 s to go",
    ]


def test_a_line_comes_while_a_step_takes_long():
    lines = lines_of(Clock(seconds=60, steps=2))
    assert len(lines) == 7
    assert lines[0] == "gan: 0 of 2, 15 s so far"
    assert lines[3] == "gan: 1 of 2, 60 s so far, about 60 s to go"


def test_steps_before_a_stop_do_not_count_as_fast():
    (line,) = lines_of(Clock(seconds=10, steps=3), first=97)
    assert line == "gan: 98 of 100, 15 s so far, about 30 s to go"


def test_what_is_shown_beside_a_bar_stands_in_the_line_however_narrow_the_screen():
    losses = "[words] 1.5  sentence 2.5  generator 9.17"
    (line,) = lines_of(Clock(seconds=10, steps=3), rate="0.10 steps/s", losses=losses)
    assert line.endswith(f"to go, 0.10 steps/s, {losses}")


def test_a_terminal_gets_bars_alone():
    assert lines_of(Clock(seconds=5, steps=12), terminal=True) == []


@pytest.mark.parametrize(("seconds", "text"), [(40.4, "40 s"), (210, "3.5 min"), (7560, "2.1 h")])
def test_times_are_shown_in_their_unit(seconds, text):
    assert show_time(seconds) == text


def test_work_without_known_steps_says_how_long_it_has_taken():
    stream = io.StringIO()
    times = iter([0.0, *[15.0] * 9])
    ends = iter([False, True])
    progress = Progress(
        console=Console(file=stream, width=40), clock=lambda: next(times), wait=lambda seconds: next(ends)
    )
    progress.add_task("exporting", total=None)
    progress.write_lines()
    assert stream.getvalue() == "exporting: 15 s so far\n"


def test_work_of_unknown_length_leaves_no_spinner_in_a_log(capsys):
    with working("looking"):
        pass
    assert capsys.readouterr().err == ""
    with working("copying", 2) as tick:
        tick()
        tick()
    assert "2/2" in capsys.readouterr().err
