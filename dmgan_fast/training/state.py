"""Checkpoints: written whole or not at all, read without executing anything, bits kept."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from dmgan_fast.errors import CheckpointError
from dmgan_fast.files import replace_file

FORMAT = 1
_NAME = re.compile(r"step-(\d+)\.pt")


def checkpoint_file(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"step-{step:08d}.pt"


def latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the highest step, or None."""
    found = [file for file in folder.glob("step-*.pt") if _NAME.fullmatch(file.name)] if folder.is_dir() else []
    return max(found, default=None, key=lambda file: int(_NAME.fullmatch(file.name)[1]))  # type: ignore[index]


def save_checkpoint(file: Path, state: dict[str, Any], keep: int) -> None:
    """Write ``state``, then remove all but the ``keep`` newest checkpoints beside it.

    Raises:
        CheckpointError: if it can't be written (a full disk, say); older checkpoints are then as they were.
    """
    try:
        with replace_file(file) as temporary:
            torch.save({"format": FORMAT, **state}, temporary)
    except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
        raise CheckpointError(f"checkpoint {file} could not be written, older ones are intact: {error}") from error
    files = sorted(file.parent.glob("step-*.pt"))
    for old in files[: max(0, len(files) - keep)]:
        old.unlink(missing_ok=True)


def load_checkpoint(file: Path, kind: str) -> dict[str, Any]:
    """Read a checkpoint of ``kind``.

    Raises:
        CheckpointError: if it is unreadable, holds more than plain data, or is of another kind or format.
    """
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many types
        raise CheckpointError(f"{file}: not a readable checkpoint: {error}") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT or state.get("kind") != kind:
        found = (
            f"{state.get('kind')}, format {state.get('format')}" if isinstance(state, dict) else type(state).__name__
        )
        raise CheckpointError(f"{file}: expected a {kind} checkpoint of format {FORMAT}, got {found}")
    return state


def random_state() -> dict[str, Any]:
    """State of PyTorch's global generators."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what ``random_state`` gave."""
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
