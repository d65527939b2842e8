"""The report of an evaluation: ``evaluation.json`` for machines, ``evaluation.md`` for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dmgan_fast.errors import CheckpointError
from dmgan_fast.files import load_json, write_text

JSON_NAME, MARKDOWN_NAME = "evaluation.json", "evaluation.md"


def write_report(folder: Path, report: dict[str, Any]) -> None:
    """Write both files; the JSON last, because a finished evaluation is known by it."""
    for name, text in (
        (MARKDOWN_NAME, markdown(report)),
        (JSON_NAME, json.dumps(report, indent=2, ensure_ascii=False)),
    ):
        write_text(folder / name, text + "\n")


def read_report(folder: Path) -> dict[str, Any] | None:
    """A finished evaluation's report, None if there is none.

    Raises:
        CheckpointError: if the file is there and is no report.
    """
    file = folder / JSON_NAME
    if not file.exists():
        return None
    try:
        report = load_json(file)
        report["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} is not a report of an evaluation: {error!r}") from None
    return report  # type: ignore[no-any-return]


def shown(metric: dict[str, Any]) -> str:
    """A value with its deviation over splits, folds or subsets."""
    digits = 5 if "kid" in metric["name"] else 2
    spread = "" if metric["std"] is None else f" ± {metric['std']:.{digits}f}"
    return f"{metric['value']:.{digits}f}{spread}"


def by_reason(left_out: dict[str, str]) -> dict[str, str]:
    """Reason → the metrics left out for it."""
    names: dict[str, list[str]] = {}
    for name, why in left_out.items():
        names.setdefault(why, []).append(name)
    return {why: ", ".join(same) for why, same in names.items()}


def markdown(report: dict[str, Any]) -> str:
    """The report as a page."""
    generated, real = report["generated"], report["real"]
    lines = ["# Evaluation", "", f"{generated['count']} images of {generated['resolution']}², {generated['what']}."]
    if real:
        lines.append(f"Real images: {real['count']}, {real['what']}.")
    lines += ["", "| metric | name | value | better |", "|---|---|---|---|"]
    for metric in report["metrics"]:
        lines.append(f"| {metric['title']} | `{metric['name']}` | {shown(metric)} | {metric['better']} |")
    notes = [(metric["name"], note) for metric in report["metrics"] for note in metric["warnings"]]
    if notes:
        lines += ["", "## Warnings", "", *(f"- `{name}`: {note}" for name, note in notes)]
    if report["left_out"]:
        lines += ["", "## Left out", "", *(f"- {names}: {why}" for why, names in by_reason(report["left_out"]).items())]
    lines += ["", "## Measured with", ""]
    lines += [f"- `{name}`: {key}" for name, key in report["extractors"].items()]
    lines += ["", "## Settings", "", "```json", json.dumps(report["settings"], indent=2, ensure_ascii=False), "```"]
    if report["generator"]:
        lines += ["", "## Generator", "", "```json", json.dumps(report["generator"], indent=2), "```"]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    return "\n".join([*lines, "", f"On {report['device']}, with {versions}."])
