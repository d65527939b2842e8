"""What ``benchmarks.against`` runs in each of its two processes: it answers each line of its input with one of JSON.

The package is that of the folder in which it runs, at any commit: only public names are used, and no other benchmark.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import dmgan_fast
from dmgan_fast import functional, modules
from dmgan_fast.training import Batch, TrainStep

CALLS = 50  # that one answer times
SIZE, CHANNELS, WORD_CHANNELS, WORDS = 64, 8, 16, 8  # narrow: what is called costs little


def _leaves(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: (torch.randn(shape) * shape[-1] ** -0.5).requires_grad_() for name, shape in shapes.items()}


def _memory_path(h: Tensor, words: Tensor, gate: Tensor, gate_bias: Tensor, **weights: Tensor) -> Any:
    key, value = functional.memory_write(words, h.detach().mean((2, 3)), **weights)
    return functional.memory_read(h, key, value, gate, gate_bias)


def _batch_norm_glu(x: Tensor, weight: Tensor, bias: Tensor) -> Any:
    return functional.batch_norm_glu(x, weight, bias, None, None, training=True)


def _words_similarity(regions: Tensor, words: Tensor) -> Any:
    lengths = torch.full((len(words),), WORDS)
    return functional.words_similarity(regions, words, lengths, gamma1=4.0, gamma2=5.0)


def _ops() -> dict[str, tuple[Callable[..., Any], dict[str, Tensor]]]:
    """Ops by name, each with its inputs."""
    maps, wide = (1, CHANNELS, SIZE, SIZE), 2 * CHANNELS
    memory = _leaves(
        h=maps,
        words=(1, WORD_CHANNELS, WORDS),
        gate=(wide,),
        gate_bias=(1,),
        gate_word=(WORD_CHANNELS,),
        gate_image=(CHANNELS,),
        word_weight=(wide, WORD_CHANNELS),
        word_bias=(wide,),
        image_weight=(wide, CHANNELS),
        image_bias=(wide,),
        key_weight=(CHANNELS, wide),
        key_bias=(CHANNELS,),
        value_weight=(CHANNELS, wide),
        value_bias=(CHANNELS,),
    )
    convolution = _leaves(x=maps, weight=(CHANNELS, CHANNELS, 3, 3))
    return {
        "memory path": (_memory_path, memory),
        "batch_norm_glu": (_batch_norm_glu, _leaves(x=maps, weight=(CHANNELS,), bias=(CHANNELS,))),
        "conv3x3": (functional.conv3x3, convolution),
        "upsample_conv3x3": (functional.upsample_conv3x3, convolution),
        "words_similarity": (
            _words_similarity,
            _leaves(regions=(2, WORD_CHANNELS, 17, 17), words=(2, WORD_CHANNELS, WORDS)),
        ),
    }


def _call(function: Callable[..., Any], inputs: dict[str, Tensor]) -> tuple[float, dict[str, float]]:
    """The median time of a call and its backward in milliseconds, and the sizes of what they gave."""

    def once() -> tuple[Tensor, ...]:
        y = function(**inputs)
        return y, *torch.autograd.grad(y, list(inputs.values()), gradient)

    gradient = torch.cos(torch.arange(function(**inputs).numel()).float()).view_as(function(**inputs))
    times = []
    for _ in range(CALLS):
        start = time.perf_counter()
        found = once()
        times.append(1e3 * (time.perf_counter() - start))
    sizes = [float(each.detach().double().norm()) for each in found]
    return statistics.median(times), dict(zip(("result", *inputs), sizes, strict=True))


NARROW = {"base_channels": 4, "word_channels": 16, "condition_channels": 8, "noise_channels": 8}
STEPS: dict[str, tuple[dict[str, Any], dict[str, Any], int, int]] = {  # of generator, encoder; discriminators; batch
    "narrow step": (NARROW, {"kind": "compact", "channels": 16, "base_channels": 4}, 4, 4),
    "birds step": ({}, {}, 32, 4),
}


class Step:
    """A training step, as ``benchmarks.step`` has it; losses are those of the first."""

    def __init__(self, name: str) -> None:
        widths, encoder, channels, size = STEPS[name]
        torch.manual_seed(0)
        config = modules.GeneratorConfig(**widths)
        of_judges: dict[str, Any] = {"base_channels": channels, "sentence_channels": config.word_channels}
        judges = [
            modules.Discriminator(modules.DiscriminatorConfig(image_size=side, **of_judges))
            for side in config.image_sizes
        ]
        frozen = modules.ImageEncoder(modules.ImageEncoderConfig(**encoder)).eval().requires_grad_(False)
        self.step = TrainStep(modules.Generator(config), judges, frozen)
        self.batch = Batch(
            images=[torch.randn(size, 3, side, side).clamp(-1, 1) for side in config.image_sizes],
            words=torch.randn(size, config.word_channels, WORDS),
            sentence=torch.randn(size, config.word_channels),
            padding_mask=torch.zeros(size, WORDS, dtype=torch.bool),
            lengths=torch.full((size,), WORDS),
            class_ids=torch.arange(size),
        )
        self.noise = {"noise": torch.randn(size, config.noise_channels)}
        self.noise["eps"] = torch.randn(size, config.condition_channels)
        self.losses = {name: float(loss) for name, loss in self.step(self.batch, **self.noise).items()}

    def __call__(self) -> tuple[float, dict[str, float]]:
        start = time.perf_counter()
        self.step(self.batch, **self.noise)
        return 1e3 * (time.perf_counter() - start), self.losses


def main() -> None:
    """Answer ``[milliseconds, {name: number that both commits must find}]`` for each name of a case."""
    found, here = Path(dmgan_fast.__file__).resolve().parents[1], Path.cwd().resolve()
    assert found == here, f"dmgan_fast is that of {found}, not of {here}"
    cases: dict[str, Callable[[], tuple[float, dict[str, float]]]]
    cases = {name: partial(_call, *op) for name, op in _ops().items()}
    for line in sys.stdin:
        name = line.strip()
        if name not in cases:
            cases[name] = Step(name)
        print(json.dumps(cases[name]()), flush=True)


if __name__ == "__main__":
    main()
