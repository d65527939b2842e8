"""Where a training step's time goes: CPU time of every operator, by part of the step and by shape.

    python -m tools.profile_step [--batch-size 4] [--residual-blocks 2] [--threads 1] [--rows 25]

CPU time of the calling thread is counted, which other programs on the machine hardly disturb; so run it on one thread.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.models import BIRDS, Models, batch_of, ours


class Profile(TorchDispatchMode):
    """Seconds and calls by (part of the step, operator, shapes)."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: Counter[tuple[str, str, str]] = Counter()
        self.calls: Counter[tuple[str, str, str]] = Counter()
        self._part = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.profiler._record_function_enter_new.default and not args[0].startswith("Optimizer."):
            self._part = args[0]
        begin = time.thread_time()
        result = func(*args, **(kwargs or {}))
        shapes = " ".join(str(list(x.shape)) for x in tree_leaves(args) if isinstance(x, Tensor) and x.dim() > 1)
        key = (self._part, str(func).removesuffix(".default"), shapes)
        self.seconds[key] += time.thread_time() - begin
        self.calls[key] += 1
        return result

    def grouped(self, *fields: int) -> list[tuple[tuple[str, ...], float, int]]:
        """Seconds and calls by these fields of the key, longest first."""
        seconds: Counter[tuple[str, ...]] = Counter()
        calls: Counter[tuple[str, ...]] = Counter()
        for key, value in self.seconds.items():
            group = tuple(key[k] for k in fields)
            seconds[group] += value
            calls[group] += self.calls[key]
        return [(group, value, calls[group]) for group, value in seconds.most_common()]


def show(title: str, rows: list[tuple[tuple[str, ...], float, int]], total: float, limit: int) -> None:
    table = Table(title=title)
    for column in ("what", "ms", "%", "calls"):
        table.add_column(column, overflow="fold")
    for what, seconds, calls in rows[:limit]:
        table.add_row("  ".join(what), f"{1e3 * seconds:.1f}", f"{100 * seconds / total:.1f}", str(calls))
    Console(width=150).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--residual-blocks", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=int, default=25)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    generator = replace(BIRDS.generator, residual_blocks=arguments.residual_blocks)
    setting = replace(BIRDS, batch=arguments.batch_size).changed(generator=generator)
    step, inputs = ours(Models.build(setting), setting.config), batch_of(setting)
    for _ in range(2):
        step(**inputs)
    begin = time.process_time()
    with Profile() as profile:
        step(**inputs)
    total = time.process_time() - begin
    counted = sum(profile.seconds.values())
    print(f"{total:.2f} s of CPU time, {counted:.2f} s in operators")
    show("by part", profile.grouped(0), total, arguments.rows)
    show("by operator", profile.grouped(1), total, arguments.rows)
    show("by operator and shapes", profile.grouped(1, 2), total, arguments.rows)


if __name__ == "__main__":
    main()
