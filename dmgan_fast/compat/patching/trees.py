"""A module tree: every module that a rule knows gets its fast class, all others a line in the report."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from dmgan_fast.compat.patching import holds
from dmgan_fast.compat.patching.blocks import recognise_conv, recognise_residual, recognise_sequence
from dmgan_fast.compat.patching.classes import fast_class, plain_class, why_no_fast_class
from dmgan_fast.compat.patching.encoder import recognise_encoder
from dmgan_fast.compat.patching.guards import own_tensors
from dmgan_fast.compat.patching.memory import recognise_read, recognise_stage
from dmgan_fast.compat.patching.report import Entry
from dmgan_fast.compat.patching.rules import Found, Options, Recognise, Refused
from dmgan_fast.compat.patching.spectral_norm import recognise_spectral_norm

RULES: tuple[Recognise, ...] = (
    recognise_stage,
    recognise_read,
    recognise_spectral_norm,
    recognise_residual,
    recognise_sequence,
    recognise_encoder,
    recognise_conv,
)


def patch_tree(root: nn.Module, options: Options, token: holds.Token, where: str = "") -> list[Entry]:
    """Make ``root`` and what is in it fast, for ``token``; what was replaced and what was left."""
    with holds.lock:
        seen = list(root.named_modules(prefix=where))
        verdicts = [(name, module, judge(module, options)) for name, module in seen]
        for _, module, verdict in verdicts:
            if isinstance(verdict, Found):
                plain = plain_class(module)
                holds.hold(module, token, fast_class(plain, verdict.fast, verdict.key))
    covered = {part for _, _, verdict in verdicts if isinstance(verdict, Found) for part in verdict.covers}
    return list(_entries(verdicts, covered))


def judge(module: nn.Module, options: Options) -> Found | Refused | None:
    """What the first rule that knows the module says."""
    for rule in RULES:
        verdict = rule(module, options)
        if verdict is not None:
            reason = why_no_fast_class(module) if isinstance(verdict, Found) else None
            return verdict if reason is None else Refused(verdict.what, reason)
    return None


def _entries(verdicts: list[tuple[str, nn.Module, Found | Refused | None]], covered: set[nn.Module]) -> Iterator[Entry]:
    for name, module, verdict in verdicts:
        if isinstance(verdict, Found):
            yield Entry(name, verdict.what, True)
        elif module not in covered:
            if verdict is not None:
                yield Entry(name, verdict.what, False, verdict.reason)
            elif own_tensors(module):
                yield Entry(name, plain_class(module).__name__, False, "no rule is for it, or its option is off")
