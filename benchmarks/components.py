"""Where a step's time goes, the authors' and ours, by torch.profiler: by phase and by kind of operator; medians of
steps in turn.

A range holds all operators that began in it. The authors' one backward over all losses is their "generator"; ours
judges and differentiates one discriminator at a time, in "adversarial". Our kinds have their floating point operations
beside them, counted as they are done (fewer than a direct convolution's, where products are saved).
"""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import flop_registry

from benchmarks.common import Rows, Table, environment, finish, parser_of
from benchmarks.harness import spread, take_turns
from benchmarks.models import BIRDS, Models, Setting, batch_of, ours, theirs
from dmgan_fast import contract
from dmgan_fast.metering.dataless import Dataless
from dmgan_fast.metering.meter import Meter

ROUNDS = 5  # profiled steps of each
PHASES = ("draw", "discriminator", "adversarial", "damsm", "generator")
KINDS = {  # the first pattern found in an operator's name decides
    "convolutions": r"conv|mkldnn|thnn|relayout",
    "batch norm, GLU, skip": r"batch_norm|glu|native_batch",
    "memory": r"memory_|bmm|baddbmm|softmax",
    "vectors of spectral norm": r"::mv|::dot|::addmv|addr|norm",
    "linear": r"::mm|::addmm|linear",
    "optimiser, average": r"adam|foreach|lerp",
    "losses": r"words_similarity|binary_cross|log_|nll|cross_entropy",
    "moves and element by element": r"",
}


def kind_of(operator: str) -> str:
    """One of ``KINDS``."""
    return next(kind for kind, pattern in KINDS.items() if re.search(pattern, operator))


def components(step: Any, inputs: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Milliseconds of one step by ``phase`` and by ``kind``."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step(**inputs)
    phases: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    for event in profiler.key_averages():
        name = event.key
        phase = next((p for p in PHASES if re.fullmatch(rf"{p}(_\d+)?", name)), None)
        if phase:
            phases[phase] += event.cpu_time_total / 1e3
        elif "::" in name:
            kinds[kind_of(name)] += event.self_cpu_time_total / 1e3
    return {"phase": dict(phases), "kind": dict(kinds)}


def in_turn(steps: dict[str, Any], inputs: dict[str, Any], rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """``components`` of each step, the median of so many rounds in which they take turns, after one to warm up."""
    for step in steps.values():
        step(**inputs)
    found: dict[str, list[dict[str, dict[str, float]]]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            found[name].append(components(step, inputs))
    return {
        name: {
            direction: {case: statistics.median(run[direction].get(case, 0.0) for run in runs) for case in cases}
            for direction, cases in runs[0].items()
        }
        for name, runs in found.items()
    }


# Products of the cheapest exact form that PyTorch's own convolutions offer, over those our kernels do: the mean of the
# result and both gradients.
DIRECT = {"conv3x3": 9, "conv4x4_stride2": 16, "upsample_conv3x3": 16}
SAVED = {op: 3 * products / sum(contract.PRODUCTS[op]) for op, products in DIRECT.items()}


def saved(operator: str) -> float:
    """``SAVED`` of an operator of any CPU level; 1 of others."""
    found = re.fullmatch(r"dmgan_fast_cpu_[a-z0-9]+::(\w+)_(?:forward|backward)(?:\.\w+)?", operator)
    return SAVED.get(found[1], 1) if found else 1


class _KindMeter(Meter):
    """Counts operations by kind, in place of phases; ``direct``: without the saved products."""

    direct = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.phase = kind_of(func.name())
        before = self.flops.total()
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if func._overloadpacket in flop_registry:  # not an op that ran others, which were counted
            done = self.flops.total() - before
            self.direct += done * saved(func.name())
        return result


def operations(setting: Setting) -> tuple[Counter[str], float]:
    """Floating point operations of our step by kind, without running it, and all as direct convolutions."""
    meter = _KindMeter()
    with Dataless():
        step, inputs = ours(Models.build(setting), setting.config), batch_of(setting)
        step(**inputs)  # makes the optimisers' states
        with meter:
            step(**inputs)
    return meter.flops, meter.direct


def spectral_norm(setting: Setting, repeats: int) -> Rows:
    """All that a step does with discriminators, with spectral norm and without, and the whole step, in turn; the noise
    of whole steps would hide the difference. ``cost_ms``: what neighbouring runs differ by.
    """
    inputs = batch_of(setting)
    batch = inputs["batch"]
    pictures = [torch.tanh(image) for image in batch.images]

    def part(mode: str) -> Callable[[], object]:
        models = Models.build(setting.changed(spectral_norm=mode))
        step = ours(replace(models, encoder=None), replace(setting.config, damsm_weight=0.0))
        return partial(step.judge, batch, pictures)

    whole = partial(ours(Models.build(setting), setting.config), **inputs)
    runs = {"with spectral norm": part("paper"), "without spectral norm": part("none"), "whole step": whole}
    times = take_turns(runs, repeats)
    more, less, _ = times.values()
    costs = spread([a - b for a, b in zip(more, less, strict=True)])
    row = {"op": "spectral_norm", "case": setting.name, "direction": "discriminators", "correct": True}
    row |= environment() | {"repeats": repeats}
    row |= {name.replace("_ms", "_cost_ms"): value for name, value in costs.items()}
    return [row | {"implementation": name} | spread(found) for name, found in times.items()]


def rows_of(setting: Setting = BIRDS, rounds: int = ROUNDS) -> Rows:
    """By phase and by kind."""
    models, inputs = Models.build(setting), batch_of(setting)
    machine = environment()
    counted_of_ours, direct = operations(setting)
    flops = {"dmgan_fast": counted_of_ours}
    rows = [
        {"op": "components", "case": "direct", "implementation": "dmgan_fast", "direction": "operations"}
        | machine
        | {"operations": direct, "correct": True}
    ]
    steps = {"authors": theirs(models, setting.config), "dmgan_fast": ours(models.copy(), setting.config)}
    for name, parts in in_turn(steps, inputs, rounds).items():
        for direction, times in parts.items():
            row = {"op": "components", "implementation": name, "direction": direction, "correct": True} | machine
            row["repeats"] = rounds
            counted = flops.get(name, {}) if direction == "kind" else {}
            rows += [
                row | {"case": case, "median_ms": ms} | ({"operations": counted[case]} if case in counted else {})
                for case, ms in times.items()
            ]
    return rows


def main() -> None:
    arguments = parser_of(f"{__doc__}\n--repeats: of the runs with and without spectral norm.", repeats=31).parse_args()
    rows = rows_of() + spectral_norm(BIRDS, arguments.repeats)
    names = ("direction", "implementation", "case")
    timed = [row for row in rows if "median_ms" in row]
    Table([*names, "ms"], [[*(row[name] for name in names), f"{row['median_ms']:.1f}"] for row in timed]).print()
    finish(rows, arguments.json)


if __name__ == "__main__":
    main()
