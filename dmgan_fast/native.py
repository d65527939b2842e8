"""The native library, loaded on first use."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import torch

from dmgan_fast.errors import BackendError

BUILD = "build it with `make build` (or `pip install --no-build-isolation -e .`)"


def library_file() -> Path | None:
    """The built library, or None."""
    spec = importlib.util.find_spec("dmgan_fast._C")
    return Path(spec.origin) if spec and spec.origin else None


@cache
def load() -> Any:
    """Load the library once and return its operators, ``torch.ops.dmgan_fast``.

    Raises:
        BackendError: if it was not built, or does not load with this PyTorch; says what to do.
    """
    file = library_file()
    if file is None:
        raise BackendError(f"the native library of dmgan_fast is not built; {BUILD}")
    try:
        torch.ops.load_library(file)
        target = torch.ops.dmgan_fast.target_version()
    except (OSError, RuntimeError, AttributeError) as error:
        raise BackendError(f"{file.name} does not load with torch {torch.__version__}: {error}; {BUILD}") from error
    if target != 2011:
        raise BackendError(f"{file.name} is from another version of dmgan_fast (target {target}); {BUILD}")
    return torch.ops.dmgan_fast
