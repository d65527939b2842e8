"""What a rule says of a module: how it is made fast, or why it is left alone."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from torch import nn

from dmgan_fast.compat.patching.classes import FastForward


@dataclass(frozen=True)
class Found:
    """``what`` the module is; ``fast``: its new forward, the same for equal ``key``; ``covers``: modules inside it that
    need no word of their own in the report."""

    what: str
    fast: FastForward
    key: Hashable
    covers: tuple[nn.Module, ...] = ()


@dataclass(frozen=True)
class Refused:
    """``what`` the module looks like, and the ``reason`` to leave it alone."""

    what: str
    reason: str


@dataclass(frozen=True)
class Options:
    """Those of ``patch``."""

    memory: bool = True
    batch_norm_glu: bool = True
    upsample: bool = True
    convolutions: bool = True
    words_loss: bool = True
    spectral_norm: bool = True
    image_encoder: bool = True


Recognise = Callable[[nn.Module, Options], Found | Refused | None]
