"""Start a run from a smaller model: its stages and discriminators are taken over, the new ones start fresh."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from torch import nn

from dmgan_fast.config import load_config, to_dict
from dmgan_fast.errors import CheckpointError
from dmgan_fast.modules import Generator, GeneratorConfig
from dmgan_fast.modules.pretrained import check_shapes
from dmgan_fast.training.state import latest_checkpoint, load_checkpoint
from dmgan_fast.training.step import TrainStep
from dmgan_fast.training.weights import find_bundle

FREE = {"image_sizes", "mask_mode", "detach_image_mean"}  # settings in which the two models may differ

_log = logging.getLogger("dmgan_fast")


def grow_from(step: TrainStep, source: str | Path) -> None:
    """Load a smaller (or equal) model into a fresh ``step``.

    Args:
        step: its generator draws the sides of ``source`` and perhaps more.
        source: a run, from whose latest checkpoint generator, average and discriminators are taken; or a folder with
            a generator's weights alone, which then start both the generator and its average.

    Raises:
        CheckpointError: if there is nothing to start from, or the models do not fit; ``step`` is then untouched.
    """
    config, states = _read(Path(source))
    wanted = step.generator.config
    mine, theirs = to_dict(wanted), to_dict(config)
    changed = [f"{k} {theirs[k]} (here {mine[k]})" for k in mine if k not in FREE and mine[k] != theirs[k]]
    if changed:
        raise CheckpointError(f"{source} can't start this generator: it has {', '.join(changed)}")
    if len(config.image_sizes) > len(wanted.image_sizes):
        raise CheckpointError(
            f"{source} draws sides up to {config.image_sizes[-1]}, this generator only up to {wanted.image_sizes[-1]}"
        )
    owners: list[tuple[nn.Module, dict[str, Any]]] = [
        (step.generator, states["generator"]),
        (step.average.module, states["average"]),
        *zip(step.discriminators, states["discriminators"], strict=False),
    ]
    for owner, state in owners:
        expected = {k: list(v.shape) for k, v in owner.state_dict().items() if k in state}
        check_shapes(expected, {k: list(v.shape) for k, v in state.items()}, type(owner).__name__, str(source))
    for owner, state in owners:
        owner.load_state_dict(state, strict=False)
    fresh = [str(d.config.image_size) for d in step.discriminators[len(states["discriminators"]) :]]
    _log.info("started from %s; fresh: discriminators %s", source, ", ".join(fresh) or "none")


def _read(source: Path) -> tuple[GeneratorConfig, dict[str, Any]]:
    """The generator's configuration; states of generator, average and discriminators."""
    latest = latest_checkpoint(source / "checkpoints")
    if latest is None:
        bundle = find_bundle(source, "generator")
        generator = Generator.from_pretrained(bundle / "generator")
        state = generator.state_dict()
        return generator.config, {"generator": state, "average": state, "discriminators": []}
    saved = load_checkpoint(latest, "gan")
    config = load_config(GeneratorConfig, saved["config"]["generator"], where=str(latest))
    states = saved["task"]["train_step"]
    average = {key.removeprefix("module."): value for key, value in states["average"].items()}
    return config, {"generator": states["generator"], "average": average, "discriminators": states["discriminators"]}
