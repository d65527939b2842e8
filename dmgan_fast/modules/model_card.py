"""The page of a saved model: what it is, how it is loaded, and what it measured."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from dmgan_fast._version import __version__
from dmgan_fast.errors import InputError

Metrics = Mapping[str, float] | Iterable[Mapping[str, Any]]
TASK = "text-to-image"


def write(
    data: ModelCardData,
    kind: str,
    config: Mapping[str, Any],
    *,
    metrics: Metrics = (),
    dataset: str = "unnamed set",
    description: str = "",
    name: str = "OWNER/NAME",
) -> ModelCard:
    """The model card, with metadata that the Hub reads.

    Args:
        data: what every model card has.
        kind: the class to load it with.
        config: its settings.
        metrics: name → value, or the ``metrics`` of an ``evaluation.json``.
        dataset: what they were measured on.
        description: what the reader should know besides.
        name: the Hub id to show in the example.

    Raises:
        InputError: for a metric without a name or a number.
    """
    rows = [_row(metric) for metric in _listed(metrics)]
    data = deepcopy(data)
    data.pipeline_tag = TASK if kind in ("Generator", "AttnGenerator") else None
    if rows:
        data.model_name = name
        data.eval_results = [
            EvalResult(
                task_type=TASK,
                dataset_type=dataset.lower().replace(" ", "-"),
                dataset_name=dataset,
                metric_type=row["name"],
                metric_name=row["title"],
                metric_value=row["value"],
            )
            for row in rows
        ]
    table = ["| metric | value | better |", "|---|---|---|"]
    table += [f"| {row['title']} | {row['shown']} | {row['better']} |" for row in rows]
    lines = [
        f"# {kind} of DM-GAN",
        *([description] if description else []),
        f"Saved by dmgan_fast {__version__}. To load it:",
        f'```python\nfrom dmgan_fast import {kind}\n\nmodel = {kind}.from_pretrained("{name}")\n```',
        *([f"## Measured on {dataset}", "\n".join(table)] if rows else []),
        "## Settings",
        f"```json\n{json.dumps(config, indent=2)}\n```",
    ]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(lines) + "\n")


def _listed(metrics: Metrics) -> list[Mapping[str, Any]]:
    if isinstance(metrics, Mapping):
        return [{"name": name, "value": value} for name, value in metrics.items()]
    return list(metrics)


def _row(metric: Mapping[str, Any]) -> dict[str, Any]:
    name, value = metric.get("name"), metric.get("value")
    if not isinstance(name, str) or isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"model card: a metric must have a name and a number, got {name!r}: {value!r}")
    std = metric.get("std")
    shown = f"{value:.5g}" + (f" ± {std:.2g}" if std is not None else "")
    return {
        "name": name,
        "title": metric.get("title", name),
        "value": value,
        "shown": shown,
        "better": metric.get("better", ""),
    }
