"""The native libraries, loaded on first use: ``dmgan_fast._C`` for CPUs, ``dmgan_fast._cuda`` for NVIDIA cards."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import torch

from dmgan_fast.errors import BackendError

LIBRARIES = {"cpu": "dmgan_fast._C", "cuda": "dmgan_fast._cuda"}
BUILD = {
    "cpu": "build it with `make build` (or `pip install --no-build-isolation -e .`)",
    "cuda": "build it with `DMGAN_FAST_CUDA=1 pip install --no-build-isolation -e .`, which needs a CUDA toolkit",
}


def library_file(kind: str = "cpu") -> Path | None:
    """The built library, or None."""
    spec = importlib.util.find_spec(LIBRARIES[kind])
    return Path(spec.origin) if spec and spec.origin else None


@cache
def load(kind: str = "cpu") -> Any:
    """Load a library once and return its operators, ``torch.ops.dmgan_fast_cpu`` or ``torch.ops.dmgan_fast_cuda``.

    Raises:
        BackendError: if it was not built, or does not load with this PyTorch; says what to do.
    """
    file = library_file(kind)
    if file is None:
        raise BackendError(f"the native {kind} library of dmgan_fast is not built; {BUILD[kind]}")
    try:
        torch.ops.load_library(file)
        operators = getattr(torch.ops, f"dmgan_fast_{kind}")
        target = operators.target_version()
    except (OSError, RuntimeError, AttributeError) as error:
        raise BackendError(
            f"{file.name} does not load with torch {torch.__version__}: {error}; {BUILD[kind]}"
        ) from error
    if target != 2011:
        raise BackendError(f"{file.name} is from another version of dmgan_fast (target {target}); {BUILD[kind]}")
    return operators
