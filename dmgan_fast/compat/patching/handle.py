"""``patch``: others' models on the fused ops, and back."""

from __future__ import annotations

import types
from collections.abc import Iterable
from typing import Any

from torch import nn
from typing_extensions import Self

from dmgan_fast.compat.patching import holds
from dmgan_fast.compat.patching.report import Entry, Report
from dmgan_fast.compat.patching.rules import Options
from dmgan_fast.compat.patching.sources import patch_source, slots
from dmgan_fast.compat.patching.trees import patch_tree
from dmgan_fast.errors import InputError

Target = nn.Module | types.ModuleType


class Handle:
    """A patch in force; as a context manager it is undone at the end."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._token: holds.Token | None = holds.Token()
        self._entries: list[Entry] = []

    def report(self) -> Report:
        """What was replaced, what was left and why, of models built since as well."""
        with holds.lock:
            return Report(self._entries)

    def unpatch(self) -> None:
        """Give back what the patch found, or what other patches in force put there; once more does nothing.

        Models that the patched modules built, and deep copies, are undone with it.
        """
        with holds.lock:
            if self._token is not None:
                slots.take(self._token)
                holds.release(self._token)
                self._token = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.unpatch()

    def __repr__(self) -> str:
        report = self.report()
        state = "in force" if self._token is not None else "undone"
        return f"<patch, {state}: {len(report.replaced)} replaced, {len(report.left)} left>"

    def _take(self, target: Target, where: str) -> None:
        token = self._token
        assert token is not None
        if isinstance(target, nn.Module):
            self._entries += patch_tree(target, self._options, token, where)
        else:
            self._entries += patch_source(target, self._options, token, self._built)

    def _built(self, model: nn.Module) -> None:
        """Patch what a class of a patched module has built."""
        with holds.lock:
            if self._token is not None:
                self._entries += patch_tree(model, self._options, self._token, type(model).__name__)


def patch(
    target: Target | Iterable[Target],
    *,
    memory: bool = True,
    batch_norm_glu: bool = True,
    upsample: bool = True,
    convolutions: bool = True,
    words_loss: bool = True,
    spectral_norm: bool = True,
    image_encoder: bool = True,
) -> Handle:
    """Run others' code on the fused ops: AttnGAN's, DM-GAN's, a fork of them, or a GAN with such parts.

    Parts are recognised by structure, and what has a ``forward`` of its own also by what that computes. Parameters,
    buffers, hooks, names, state dicts and gradients stay; what is not recognised, or not quite, is left as it is.

    Args:
        target: a model, a Python module that defines models or losses (the authors' ``model``, ``miscc.losses``,
            ``spectral``), or several of both. Of a Python module, models that are built from now on are fast.
        memory: DM-GAN's memory refinement and AttnGAN's attention read, and ``cat(h, h)`` before a residual block.
        batch_norm_glu: batch norm → GLU, and residual blocks made of it.
        upsample: nearest ×2 → 3×3 convolution.
        convolutions: other 3×3 convolutions, and 4×4 ones with stride 2.
        words_loss: DAMSM's words loss, a function of a Python module.
        spectral_norm: wrappers with ``weight_bar``, ``weight_u`` and ``weight_v``.
        image_encoder: frozen convolution → batch norm → ReLU.

    Returns:
        a handle with ``report()`` and ``unpatch()``, which is a context manager too.

    Raises:
        InputError: if the target is something else.

    Example:
        >>> with patch(netG) as handle:    # doctest: +SKIP
        ...     print(handle.report())
    """
    targets = [target] if isinstance(target, (nn.Module, types.ModuleType)) else _listed(target)
    handle = Handle(
        Options(memory, batch_norm_glu, upsample, convolutions, words_loss, spectral_norm, image_encoder)
    )  # fmt: skip
    try:
        for number, each in enumerate(targets):
            handle._take(each, str(number) if len(targets) > 1 and isinstance(each, nn.Module) else "")
    except BaseException:
        handle.unpatch()
        raise
    return handle


def _listed(target: Any) -> list[Target]:
    """The targets in ``target``."""
    try:
        targets = list(target)
    except TypeError:
        targets = [target]
    wrong = [type(each).__name__ for each in targets if not isinstance(each, (nn.Module, types.ModuleType))]
    if wrong or not targets:
        found = wrong[0] if wrong else "nothing"
        raise InputError(f"patch: target must be an nn.Module, a Python module or several of them, got {found}")
    return targets
