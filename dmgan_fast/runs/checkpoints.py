"""Checkpoints: written whole or not at all, read without executing anything, bits kept."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from dmgan_fast.errors import CheckpointError
from dmgan_fast.files import replace_file
from dmgan_fast.foreign import read_torch

FORMAT = 1
KINDS = ("gan", "damsm")
_NAME = re.compile(r"step-(\d+)\.pt")


def checkpoint_file(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"step-{step:08d}.pt"


def latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the highest step, or None."""
    found = [file for file in folder.glob("step-*.pt") if _NAME.fullmatch(file.name)] if folder.is_dir() else []
    return max(found, default=None, key=lambda file: int(_NAME.fullmatch(file.name)[1]))  # type: ignore[index]


def steps_of(folder: Path) -> list[int]:
    """Steps that have a checkpoint, in order."""
    return sorted(int(found[1]) for file in folder.glob("step-*.pt") if (found := _NAME.fullmatch(file.name)))


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


def load_checkpoint(file: Path, kind: str | None = None, *, mmap: bool = False) -> dict[str, Any]:
    """Read a checkpoint of ``kind`` (``"gan"``, ``"damsm"``), or of any.

    Args:
        mmap: leave tensors in the file until they are looked at.

    Raises:
        CheckpointError: if it is unreadable, holds more than plain data, or is of another kind or format.
    """
    state = read_torch(file, "readable checkpoint", mmap=mmap)
    found = state if isinstance(state, dict) else {}
    if found.get("format") != FORMAT or found.get("kind") not in ((kind,) if kind else KINDS):
        written = f"{found['kind']}, format {found.get('format')}" if "kind" in found else "a file of something else"
        raise CheckpointError(
            f"{file}: expected a {kind or ' or '.join(KINDS)} checkpoint of format {FORMAT}, got {written}"
        )
    return found


def random_state() -> dict[str, Any]:
    """State of PyTorch's global generators."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what ``random_state`` gave."""
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
