"""Cells of work in processes, of which one may die: a fault of one kernel must not take the others' results along."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing import connection, get_context
from typing import Any

Rows = list[dict[str, Any]]


def in_processes(
    work: Callable[..., Rows],
    cells: Iterable[tuple[Any, ...]],
    workers: int,
    *,
    died: Callable[..., Rows],
    is_sound: Callable[[], bool] = lambda: True,
) -> Iterator[dict[str, Any]]:
    """Rows of ``work(*cell)`` for each cell as they are found, by ``workers`` processes forked from this one.

    Where a process ends within a cell, ``died(code, *cell)`` tells so; and one that is not sound after a cell, as a GPU
    takes no more work from a process after an access out of bounds, makes room for a new one.
    """
    waiting = deque(cells)
    free: list[tuple[Any, Any]] = []  # processes, and their ends of pipes
    busy: dict[Any, tuple[Any, tuple[Any, ...]]] = {}
    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                process, pipe = free.pop() if free else _start(work, is_sound)
                cell = waiting.popleft()
                busy[pipe] = process, cell
                pipe.send(cell)
            for pipe in connection.wait(list(busy)):
                process, cell = busy.pop(pipe)
                try:
                    rows, sound = pipe.recv()  # type: ignore[union-attr]
                except EOFError:
                    process.join()
                    rows, sound = died(process.exitcode, *cell), False
                yield from rows
                if sound:
                    free.append((process, pipe))
    finally:
        for process in [*(each for each, _ in free), *(each for each, _ in busy.values())]:
            process.kill()
            process.join()


def _start(work: Callable[..., Rows], is_sound: Callable[[], bool]) -> tuple[Any, Any]:
    context = get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(work, is_sound, theirs), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def _serve(work: Callable[..., Rows], is_sound: Callable[[], bool], pipe: Any) -> None:
    sound = True
    with suppress(EOFError):
        while sound:
            rows = work(*pipe.recv())
            sound = is_sound()
            pipe.send((rows, sound))
