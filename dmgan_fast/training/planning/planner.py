"""Plans: the cheapest policy under which a training step fits into a budget, and what else would fit."""

from __future__ import annotations

import os
from dataclasses import replace

import torch

from dmgan_fast import parallel
from dmgan_fast.errors import InputError
from dmgan_fast.modules import GeneratorConfig
from dmgan_fast.modules.generator import sizes_up_to
from dmgan_fast.runs.config import TrainConfig
from dmgan_fast.sizes import parse_size, show_size
from dmgan_fast.training.planning.measure import Measure, measure_of
from dmgan_fast.training.planning.plan import Plan
from dmgan_fast.training.planning.search import ladder, largest_batch, largest_resolution, most_frugal


def plan(
    config: TrainConfig | GeneratorConfig,
    *,
    batch_size: int,
    memory_bytes: int,
    device: str | torch.device | None = None,
) -> Plan:
    """Choose the policy with the least arithmetic under which a training step fits into ``memory_bytes``.

    Args:
        config: of the run; a ``GeneratorConfig`` alone takes the other settings of the birds. ``config.encoders``, if
            given, tells which image encoder.
        batch_size: images a step, 2 or more. With ``config.parallel.rows`` above 1, of the processes that hold images
            together; what one of them needs is planned.
        memory_bytes: budget for weights, optimisers and everything else that PyTorch allocates.
        device: planned for; None: a GPU if there is one. A GPU need not be there.

    Raises:
        InputError: for a batch below 2, or a budget that is not positive.
    """
    if isinstance(config, GeneratorConfig):
        config = TrainConfig(generator=config)
    if batch_size < 2:
        raise InputError(f"plan: batch_size must be at least 2 (batch norm), got {batch_size}")
    if memory_bytes < 1:
        raise InputError(f"plan: memory_bytes must be positive, got {memory_bytes}")
    kind = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")).type
    measure = measure_of(config, kind)
    policies = list(ladder(config, batch_size, kind))
    least = measure(policies[0], batch_size)
    if measure.state_bytes > memory_bytes:
        policies = policies[-2:]
    tried = [least]
    for policy in policies[1:]:
        if tried[-1].peak_bytes <= memory_bytes:
            break
        tried.append(measure(policy, batch_size))
    fitting = [cost for cost in tried if cost.peak_bytes <= memory_bytes]
    chosen = min(fitting, key=lambda c: c.flops) if fitting else min(tried, key=lambda c: c.peak_bytes)
    more = max(1, batch_size // 4)
    return Plan(
        fits=bool(fitting),
        policy=chosen.policy,
        peak=dict(chosen.peak),
        flops=chosen.flops,
        recompute_flops=chosen.flops - least.flops,
        memory_bytes=memory_bytes,
        batch_size=batch_size,
        resolution=config.generator.image_sizes[-1],
        rows=config.parallel.rows,
        precision=config.step.precision,
        device=kind,
        tried=tuple(tried),
        bytes_per_picture=(measure(chosen.policy, batch_size + more).peak_bytes - chosen.peak_bytes) // more,
        largest_batch=_largest_batch(measure, batch_size, memory_bytes),
        largest_resolution=_largest_resolution(measure, batch_size, memory_bytes),
    )


def fit(config: TrainConfig, memory: str) -> tuple[TrainConfig, Plan]:
    """``config`` under the cheapest policy that fits into ``memory`` (as ``"24GiB"``), and the plan.

    Raises:
        InputError: if nothing fits; says what would.
    """
    # Of several processes, or groups of those that hold images together, each has its rows of a batch.
    parts = max(1, parallel.expected() // config.parallel.rows)
    batch_size = max(2, -(-config.loop.batch_size // parts))
    device = None if config.loop.device == "auto" else config.loop.device
    found = plan(config, batch_size=batch_size, memory_bytes=parse_size(memory), device=device)
    if not found.fits:
        raise InputError(
            f"a step at {found.resolution}² in {found.precision} with a batch of {batch_size} does not fit into "
            f"{memory}: the most frugal policy needs {show_size(found.peak_bytes)}{found.instead()}"
        )
    return replace(config, step=replace(config.step, memory=found.policy)), found


def device_memory(device: str | torch.device | None = None) -> int:
    """Bytes of a GPU, or of this machine."""
    if torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")).type == "cuda":
        return int(torch.cuda.mem_get_info()[1])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _largest_batch(measure: Measure, batch_size: int, budget: int) -> int:
    if measure.state_bytes > budget:
        return 0
    frugal = most_frugal(measure.config, batch_size)
    return largest_batch(lambda n: measure(frugal, n).peak_bytes, budget, batch_size)


def _largest_resolution(measure: Measure, batch_size: int, budget: int) -> int:
    config = measure.config

    def fits(side: int) -> bool:
        wider = replace(config, generator=replace(config.generator, image_sizes=sizes_up_to(side)))
        frugal = most_frugal(wider, batch_size)
        return measure_of(wider, measure.meter.device_type).fits(frugal, batch_size, budget)

    frugal = most_frugal(config, batch_size)
    least = measure.state_bytes if measure.state_bytes > budget else measure(frugal, batch_size).peak_bytes
    return largest_resolution(fits, config.generator.image_sizes[-1], least, budget)
