"""Configurations of a run from presets, a YAML file, the command line, in that order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from dmgan_fast.config import load_config
from dmgan_fast.errors import InputError
from dmgan_fast.runs.config import PretrainConfig, TrainConfig, by_new_names

T = TypeVar("T")
BIRDS, COCO = 8_855, 82_783  # training images
MOST_VALUES = 10_000  # in a file of settings


def _epochs(epochs: int, images: int, batch_size: int) -> dict[str, Any]:
    return {"steps": epochs * (images // batch_size), "batch_size": batch_size}


_DEMO_DATA = {"source": "demo", "max_words": 12}
# Encoders are trained as long as the published ones (`text_encoder200.pth`, `text_encoder100.pth`).
_BIRDS_ENCODERS: dict[str, Any] = {"loop": _epochs(200, BIRDS, 48)}
_COCO_ENCODERS: dict[str, Any] = {"data": {"max_words": 15}, "loop": _epochs(100, COCO, 48)}
_ATTNGAN: dict[str, Any] = {"spectral_norm": "none", "batch_norm": True}
PRESETS: dict[str, dict[type, dict[str, Any]]] = {
    "birds": {PretrainConfig: _BIRDS_ENCODERS, TrainConfig: {"loop": _epochs(800, BIRDS, 10)}},
    "coco": {
        PretrainConfig: _COCO_ENCODERS,
        TrainConfig: {
            "data": {"max_words": 12},
            "generator": {"residual_blocks": 3},
            "step": {"damsm_weight": 50.0},
            "loop": _epochs(200, COCO, 16),
        },
    },
    "attngan-birds": {
        PretrainConfig: _BIRDS_ENCODERS,
        TrainConfig: _ATTNGAN
        | {
            "generator": {"refinement": "attention", "base_channels": 32},
            "discriminator_channels": 64,
            "loop": _epochs(600, BIRDS, 20),
        },
    },
    "attngan-coco": {
        PretrainConfig: _COCO_ENCODERS,
        TrainConfig: _ATTNGAN
        | {
            "data": {"max_words": 12},
            "generator": {"refinement": "attention", "base_channels": 48, "residual_blocks": 3},
            "discriminator_channels": 96,
            "step": {"damsm_weight": 50.0},
            "loop": _epochs(120, COCO, 14),
        },
    },
    "demo": {
        PretrainConfig: {
            "data": _DEMO_DATA,
            "word_channels": 128,
            "embedding_channels": 128,
            "image_encoder": {"kind": "compact", "channels": 128, "image_size": 64, "base_channels": 24},
            "image_size": 64,
            "loop": {"steps": 600, "batch_size": 48, "sample_every": 200, "checkpoint_every": 200},
        },
        TrainConfig: {
            "data": _DEMO_DATA,
            "generator": {
                "image_sizes": [64, 128],
                "base_channels": 16,
                "word_channels": 128,
                "condition_channels": 64,
                "noise_channels": 32,
                "residual_blocks": 1,
            },
            "discriminator_channels": 16,
            # The paper's rates leave so short a run gray.
            "step": {
                "generator_learning_rate": 2e-3,
                "discriminator_learning_rate": 2e-4,
                "damsm_weight": 0.5,
                "average_decay": 0.98,
            },
            "loop": {
                "steps": 400,
                "batch_size": 16,
                "sample_every": 200,
                "checkpoint_every": 200,
                "measure_every": 200,
            },
        },
    },
}


def build_config(
    cls: type[T],
    *,
    preset: str = "birds",
    file: str | Path | None = None,
    overrides: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
) -> T:
    """A configuration from a preset, a YAML file, ``key.subkey=value`` overrides and given values; later ones win.

    Raises:
        InputError: for an unknown preset, an unreadable file, an unknown key (with the nearest known one) or a value
            that is not allowed.
    """
    if preset not in PRESETS:
        raise InputError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    merged = dict(PRESETS[preset][cls])
    if file is not None:
        merged = _merge(merged, by_new_names(_read(Path(file))))
    for override in overrides:
        name, separator, text = override.partition("=")
        if not separator:
            raise InputError(f"a setting is written key=value, got {override!r}")
        value = _yaml(text, f"{name}: {text!r} is not a YAML value")
        for part in reversed(name.split(".")):
            value = {part: value}
        merged = _merge(merged, by_new_names(value))
    merged = _merge(merged, by_new_names(values or {}))
    return load_config(cls, merged, where=str(file) if file else "configuration")


def _read(file: Path) -> Mapping[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"config {file} can't be read: {error}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"config {file} can't be read: not UTF-8 text (byte {error.start})") from None
    content = _yaml(text, f"config {file} can't be read")
    if not isinstance(content, dict):
        raise InputError(
            f"config {file}: expected keys and values, as `loop: {{steps: 500}}`, got {str(content)[:60]!r}"
        )
    return content


def _yaml(text: str, wrong: str) -> Any:
    """What YAML says.

    Raises:
        InputError: which begins with ``wrong``, if it is none, or says more than any settings do.
    """
    try:
        value: Any = yaml.safe_load(text)
    except RecursionError:
        raise InputError(f"{wrong}: it is nested too deeply") from None
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, OverflowError) as error:  # odd dates and numbers too
        raise InputError(f"{wrong}: {error}") from None
    waiting, count = [value], 0  # a name (&a) for a value that holds itself twice (*a) is short to write, and endless
    while waiting:
        inner, count = waiting.pop(), count + 1
        if count > MOST_VALUES:
            raise InputError(f"{wrong}: it has more than {MOST_VALUES:,} values")
        if isinstance(inner, dict):
            waiting += inner.values()
        elif isinstance(inner, (list, tuple, set)):
            waiting += inner
    return value


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = _merge(result[key], value) if both else value
    return result
