"""Which backend runs an op here and, if one can't, why not."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch

from dmgan_fast import reference
from dmgan_fast.errors import BackendError, InputError

Backend = Literal["auto", "cuda", "triton", "cpu", "reference"]
BACKENDS: tuple[str, ...] = get_args(Backend)
OPS = ("memory_write", "memory_read", "batch_norm_glu", "upsample_conv3x3", "words_similarity")
VARIABLE = "DMGAN_FAST_BACKEND"

_log = logging.getLogger("dmgan_fast")
_announced: set[str] = set()


def why_not(op: str, backend: str) -> str | None:
    """None if ``backend`` can run ``op`` here, else the reason."""
    if backend == "reference":
        return None
    return f"this version has no {backend} kernel for {op}"


def choose(op: str, backend: str | None) -> Callable[..., Any]:
    """The implementation of ``op``; ``backend=None`` takes ``DMGAN_FAST_BACKEND`` or ``"auto"``.

    Raises:
        InputError: for an unknown name.
        BackendError: if a backend was asked for by name and can't run.
    """
    wanted = backend or os.environ.get(VARIABLE) or "auto"
    if wanted not in BACKENDS:
        origin = "backend" if backend else VARIABLE
        raise InputError(f"{op}: {origin} must be one of {', '.join(BACKENDS)}, got {wanted!r}")
    if wanted == "auto":
        chosen = next(name for name in BACKENDS[1:] if why_not(op, name) is None)
        if op not in _announced and not torch.compiler.is_compiling():
            _announced.add(op)
            _log.info("%s runs on the %s backend", op, chosen)
    else:
        reason = why_not(op, wanted)
        if reason:
            raise BackendError(f"{op}: backend {wanted!r} can't run: {reason}")
        chosen = wanted
    implementation: Callable[..., Any] = getattr(reference, op)
    return implementation


def table() -> dict[str, dict[str, str]]:
    """Op → backend → ``"yes"`` or the reason why not, for this machine."""
    return {op: {name: why_not(op, name) or "yes" for name in BACKENDS[1:]} for op in OPS}
