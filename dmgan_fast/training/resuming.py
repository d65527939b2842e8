"""Which settings may change when a run continues, and what to say of each."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dmgan_fast.errors import CheckpointError
from dmgan_fast.runs.config import by_new_names

# Reporting, length, and what a step keeps in memory: the result is the same.
FREE = {
    "kind", "loop.steps", "loop.log_every", "loop.sample_every", "loop.checkpoint_every", "loop.keep_checkpoints",
    "loop.save_in_background",
    "loop.device", "loop.keep_freed_memory", "loop.measure_every", "loop.measure_images", "loop.best_by",
    "loop.logger", "data.workers", "data.cache", "data.skip_bad", "parallel.timeout", "parallel.rows",
    "parallel.shard", "step.memory", "step.cuda_graph",
    "inception_weights", "init_from",
}  # fmt: skip
# The training continues in another way, which is logged.
RATES = {"step.generator_learning_rate", "step.discriminator_learning_rate", "learning_rate", "learning_rate_decay"}
BATCH = "loop.batch_size"
# Places: compared by what lies there.
PLACES = {"data.source": "data", "encoders": "encoders"}

_log = logging.getLogger("dmgan_fast.runs")


class Change(NamedTuple):
    """A setting with its old and its new value."""

    name: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.name} was {self.old}, now {self.new}"


def changes(saved: Mapping[str, Any], given: Mapping[str, Any]) -> list[Change]:
    """Settings that differ and matter; what an older version did not know is not held against it."""
    found = []
    for section, value in by_new_names(saved).items():
        if isinstance(value, Mapping):
            now = given.get(section) or {}
            pairs = [(f"{section}.{key}", old, now.get(key, old)) for key, old in value.items()]
        else:
            pairs = [(section, value, given.get(section, value))]
        found += [Change(name, old, new) for name, old, new in pairs if old != new and name not in FREE]
    return found


def refuse_changes(saved: Mapping[str, Any], given: Mapping[str, Any], where: Path) -> None:
    """Raise ``CheckpointError`` naming every setting that differs and matters."""
    _refuse(changes(saved, given), where)


def refuse_fixed(saved: Mapping[str, Any], given: Mapping[str, Any], where: Path) -> None:
    """Raise ``CheckpointError`` for settings that can't change, before anything is opened or built."""
    _refuse([each for each in changes(saved, given) if each.name not in {*RATES, *PLACES, BATCH}], where)


def accept_changes(
    saved: Mapping[str, Any], given: Mapping[str, Any], old: Mapping[str, str], new: Mapping[str, str], where: Path
) -> None:
    """Log what may change on resuming; refuse the rest.

    Args:
        saved, given: configurations.
        old, new: fingerprints of ``"data"``, ``"encoders"`` and ``"vocabulary"``, by name; ``old`` may lack some.
        where: the checkpoint.

    Raises:
        CheckpointError: naming each setting that can't change, with its old and its new value.
    """
    refused, notes, warnings = [], [], []
    for change in changes(saved, given):
        place = PLACES.get(change.name)
        if place is not None and old.get(place) == new.get(place):
            notes.append(f"{place} found by content: {change}")
        elif place is not None:
            refused.append(change)
        elif change.name in RATES:
            notes.append(str(change))
        elif change.name == BATCH:
            warnings.append(f"{change}: an epoch has another number of steps from here on")
        else:
            refused.append(change)
    moved = {change.name for change in refused}
    if moved & PLACES.keys():
        _refuse_places(refused, old, where)
    _refuse(refused, where)
    for name, place in PLACES.items():
        if place in old and place in new and old[place] != new[place] and name not in moved:
            text = f"{place} at {_at(given, name)} changed since {where} was written"
            if place == "encoders":
                raise CheckpointError(
                    f"{text}: the run would go on with other encoders; put its own there, or start a new run"
                )
            warnings.append(f"{text}: images or captions were added, removed or edited")
    if "vocabulary" in old and old["vocabulary"] != new.get("vocabulary"):
        raise CheckpointError(f"{where} was trained with the words of another vocabulary than the one given now")
    for note in notes:
        _log.info("resuming: %s", note)
    for warning in warnings:
        _log.warning("resuming: %s", warning)


def _refuse_places(refused: list[Change], old: Mapping[str, str], where: Path) -> None:
    for change in refused:
        place = PLACES.get(change.name)
        if place is None:
            continue
        if place not in old:
            raise CheckpointError(
                f"{where} was trained with other settings; these differ: {change.name} ({change}). It does not say "
                f"what its {place} held, so they can't be compared: put them at {change.old} again (a link will do)"
            )
        raise CheckpointError(
            f"{where} was trained with other {place}; these differ: {change.name} ({change}), and what lies there "
            f"is not the same; give the {place} of the run, or start a new run with --init-from"
        )


def _refuse(refused: list[Change], where: Path) -> None:
    if refused:
        names = ", ".join(change.name for change in refused)
        raise CheckpointError(
            f"{where} was trained with other settings; these differ: {names} ({'; '.join(map(str, refused))}). "
            "They can't change within a run; start a new one with --init-from"
        )


def _at(config: Mapping[str, Any], name: str) -> Any:
    section, _, key = name.partition(".")
    return config[section][key] if key else config[section]
