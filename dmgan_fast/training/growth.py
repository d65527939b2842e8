"""Start a run from a smaller model: its stages and discriminators are taken over, the new ones start fresh."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from torch import nn

from dmgan_fast.config import to_dict
from dmgan_fast.errors import CheckpointError
from dmgan_fast.modules.pretrained import check_shapes
from dmgan_fast.runs.checkpoints import load_checkpoint
from dmgan_fast.sampling.bundle import latest_bundle, open_bundle
from dmgan_fast.training.step import TrainStep

# Settings in which the two models may differ.
FREE = {"image_sizes", "mask_mode", "detach_image_mean"}
FREE_OF_DISCRIMINATORS = {"spectral_norm"}  # how often it iterates; the tensors are the same

_log = logging.getLogger("dmgan_fast.runs")


def grow_from(step: TrainStep, source: str | Path) -> None:
    """Load a smaller (or equal) model into a fresh ``step``.

    Args:
        step: its generator makes the resolutions of ``source`` and perhaps more.
        source: a run, from whose latest checkpoint generator, average and discriminators are taken; a checkpoint of
            one; or a folder of weights, whose generator starts both the generator and its average, with the
            discriminators that it holds.

    Raises:
        CheckpointError: if there is nothing to start from, or the models do not fit; ``step`` is then untouched.
    """
    bundle = latest_bundle(source) or open_bundle(source, "generator", words=False)
    saved = None if bundle.checkpoint is None else load_checkpoint(bundle.checkpoint, "gan")
    average = bundle.generator()
    config, wanted = average.config, step.generator.config
    _refuse_differences(config, wanted, FREE, f"{source} can't start this generator: it has", "generator.")
    if len(config.image_sizes) > len(wanted.image_sizes):
        raise CheckpointError(
            f"{source} generates resolutions up to {config.image_sizes[-1]}, this generator only up to "
            f"{wanted.image_sizes[-1]}"
        )
    live = average.state_dict() if saved is None else saved["task"]["train_step"]["generator"]
    owners: list[tuple[nn.Module, dict[str, Any]]] = [
        (step.generator, live),
        (step.average.module, average.state_dict()),
    ]
    sides = bundle.sides()
    for mine in step.discriminators:
        side = mine.config.image_size
        if side in sides:
            theirs = bundle.discriminator(side)
            what = f"{source} can't start the discriminator for resolution {side}: it has"
            _refuse_differences(theirs.config, mine.config, FREE_OF_DISCRIMINATORS, what)
            owners.append((mine, theirs.state_dict()))
    for owner, state in owners:
        expected = {k: list(v.shape) for k, v in owner.state_dict().items() if k in state}
        check_shapes(expected, {k: list(v.shape) for k, v in state.items()}, type(owner).__name__, str(source))
    for owner, state in owners:
        owner.load_state_dict(state, strict=False)
    fresh = [str(d.config.image_size) for d in step.discriminators if d.config.image_size not in sides]
    stages = [str(side) for side in wanted.image_sizes if side not in config.image_sizes]
    _log.info(
        "started from %s; taken over: generator for resolutions %s, discriminators %s; fresh: discriminators %s, "
        "stages of the generator %s, all optimisers",
        bundle,
        ", ".join(map(str, config.image_sizes)),
        ", ".join(str(d.config.image_size) for d in step.discriminators if d.config.image_size in sides) or "none",
        ", ".join(fresh) or "none",
        ", ".join(stages) or "none",
    )


def _refuse_differences(theirs: Any, mine: Any, free: set[str], what: str, settings: str = "") -> None:
    given, here = to_dict(theirs), to_dict(mine)
    names = [name for name in here if name not in free and here[name] != given[name]]
    if names:
        changed = ", ".join(f"{name} {given[name]} (here {here[name]})" for name in names)
        remedy = " ".join(f"--set {settings}{name}={given[name]}" for name in names) if settings else ""
        raise CheckpointError(f"{what} {changed}{f'; train one like it: {remedy}' if remedy else ''}")
