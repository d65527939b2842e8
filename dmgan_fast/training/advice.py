"""What to say when memory runs out in a training step: what a step needs, and the settings that make it need less."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from dmgan_fast import out_of_memory
from dmgan_fast.runs.config import LoopConfig, TrainConfig
from dmgan_fast.sizes import show_size


def told_of_training(config: object, device: torch.device) -> AbstractContextManager[None]:
    """Within, running out of memory becomes ``OutOfMemory`` that says how to train with less."""
    return out_of_memory.told(lambda asked: training_advice(config, device, asked))


def training_advice(config: object, device: torch.device, asked: int | None) -> str:
    """What a step needs, and the settings that make it need less."""
    loop = getattr(config, "loop", LoopConfig())
    free = out_of_memory.free_memory(device)
    fewer = max(2, loop.batch_size // 2)
    if not isinstance(config, TrainConfig):
        return (
            f"out of memory in a step of {loop.batch_size} images{out_of_memory.numbers(asked, free)}; "
            f"take fewer at once: --batch {fewer}"
        )
    side, precision = config.generator.image_sizes[-1], config.step.precision
    needed = _step_bytes(config, device)
    budget = f"{max(1, int((free or needed or 1 << 30) * out_of_memory.ROOM) >> 20)}MiB"
    numbers = out_of_memory.numbers(asked, free, f"about {show_size(needed)} needed" if needed else "")
    what = f"out of memory in a step of {loop.batch_size} images at resolution {side} in {precision}{numbers}; "
    kind = device.type
    plan = (
        f"dmgan-fast plan --size {side} --batch {loop.batch_size} --dtype {precision} --memory {budget} --device {kind}"
    )
    levers = [f"keep less, with the same result (--memory {budget}; `{plan}` says what fits)", f"--batch {fewer}"]
    levers += ["--dtype bf16"] if precision == "fp32" else []
    return what + ", or ".join(levers)


def _step_bytes(config: TrainConfig, device: torch.device) -> int | None:
    from dmgan_fast.training.planning.measure import measure_of  # loads much: only when memory ran out

    try:
        return measure_of(config, device.type)(config.step.memory, config.loop.batch_size).peak_bytes
    except Exception:  # a forecast is not worth losing the message for
        return None
