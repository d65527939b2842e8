"""The native libraries, loaded on first use: ``dmgan_fast._cuda`` for NVIDIA GPUs, for CPUs the best of those built.

A level of CPU (``sse2``, ``avx2``, ``avx512``, ``neon``) is a library of its own, ``dmgan_fast._cpu_<level>``, from the
same sources; ``dmgan_fast._cpu`` tells which of them this CPU can run. ``DMGAN_FAST_CPU`` asks for one by name.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from functools import cache
from pathlib import Path
from typing import Any

import torch

from dmgan_fast import contract
from dmgan_fast.errors import BackendError, InputError

LEVELS = ("avx512", "avx2", "sse2", "neon", "portable")  # a CPU runs one and those after it of its kind
LEVEL_VARIABLE = "DMGAN_FAST_CPU"
OLDEST_TORCH = (2, 11)
_log = logging.getLogger("dmgan_fast")
_described: set[str] = set()  # libraries that have what the contract says of their operators
BUILD = {
    "cpu": "with a C++20 compiler and Python's headers (Debian: `apt install g++ python3-dev`), build it by `make "
    "build` in a checkout, or `pip install --no-build-isolation --no-deps --force-reinstall --no-cache-dir` the sdist",
    "cuda": "build it with `DMGAN_FAST_CUDA=1 pip install --no-build-isolation -e .`, which needs a CUDA toolkit",
}


def library_file(library: str) -> Path | None:
    """The built library ``dmgan_fast._<library>``, or None."""
    spec = importlib.util.find_spec(f"dmgan_fast._{library}")
    return Path(spec.origin) if spec and spec.origin else None


def built_levels() -> tuple[str, ...]:
    """CPU levels that were built, best first."""
    return tuple(level for level in LEVELS if library_file(f"cpu_{level}"))


def cpu_levels() -> tuple[str, ...]:
    """CPU levels that were built and that this CPU can run, best first.

    Raises:
        BackendError: if nothing was built.
    """
    if library_file("cpu") is None:
        raise BackendError(f"the native CPU library of dmgan_fast is not built; {BUILD['cpu']}")
    runs: tuple[str, ...] = importlib.import_module("dmgan_fast._cpu").levels()
    return tuple(level for level in built_levels() if level in runs)


@cache
def warn_if_missing() -> None:
    """Say once that the reference does the CPU library's work, why, and what helps, if so it is."""
    try:
        load("cpu")
    except BackendError as error:
        _log.warning("dmgan_fast runs on its slow reference: %s", error)


def compiler() -> str:
    """Name and version of the compiler that built the CPU libraries."""
    found: str = importlib.import_module("dmgan_fast._cpu").compiler()
    return found


def cpu_level() -> str:
    """The CPU level in use: the best there is, or the one that ``DMGAN_FAST_CPU`` names.

    Raises:
        BackendError: if nothing was built.
        InputError: if ``DMGAN_FAST_CPU`` names a level that is not among ``cpu_levels()``; says which are.
    """
    there, wanted = cpu_levels(), os.environ.get(LEVEL_VARIABLE)
    if wanted and wanted not in there:
        built = ", ".join(built_levels())
        raise InputError(
            f"{LEVEL_VARIABLE} must be one of {', '.join(there)} on this CPU, got {wanted!r} (built: {built})"
        )
    if not there:
        raise BackendError(f"no native CPU library for this CPU is built (built: {', '.join(built_levels())})")
    return wanted or there[0]


@cache
def load(kind: str = "cpu") -> Any:
    """Load a library once and return its operators: of the GPU with ``"cuda"``, of the CPU level in use with ``"cpu"``.

    Raises:
        BackendError: if it was not built, or does not load with this PyTorch; says what to do.
    """
    return _load(f"cpu_{cpu_level()}" if kind == "cpu" else kind)


def _load(library: str) -> Any:
    how = BUILD[library.split("_")[0]]
    if tuple(map(int, torch.__version__.split(".")[:2])) < OLDEST_TORCH:
        raise BackendError(f"dmgan_fast needs torch 2.11 or newer, here is {torch.__version__}: `pip install -U torch`")
    file = library_file(library)
    if file is None:
        raise BackendError(f"the native {library} library of dmgan_fast is not built; {how}")
    try:
        torch.ops.load_library(file)
        operators = getattr(torch.ops, f"dmgan_fast_{library}")
        target = operators.target_version()
    except (OSError, RuntimeError, AttributeError) as error:
        said = " ".join(str(error).split())
        raise BackendError(f"{file.name} does not load with torch {torch.__version__}: {said}; {how}") from error
    if target != 2011:
        raise BackendError(f"{file.name} is from another version of dmgan_fast (target {target}); {how}")
    lacks = [each.name for each in contract.functions() if library != "cuda" and not hasattr(operators, each.name)]
    if lacks:
        raise BackendError(f"{file.name} is from another version of dmgan_fast (it lacks {', '.join(lacks)}); {how}")
    if library not in _described:
        contract.describe(f"dmgan_fast_{library}", flops=library != "cuda")
        _described.add(library)
    return operators
