"""Who holds which module fast: of several patches of one module the latest that is still in force decides.

A module is of its own class again when nobody holds it. Deep copies are held by whoever holds the original.
"""

from __future__ import annotations

import threading
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from dmgan_fast.compat.patching import classes


class Token:
    """Identity of a patch."""


lock = threading.RLock()  # patching and unpatching, and nothing else, take it
_held: WeakKeyDictionary[nn.Module, dict[Token, type[nn.Module]]] = WeakKeyDictionary()


def hold(module: nn.Module, token: Token, kind: type[nn.Module]) -> None:
    """Make ``module`` of the fast class ``kind``."""
    with lock:
        _held.setdefault(module, {})[token] = kind
        _give_class(module, kind)


def _give_class(module: nn.Module, kind: type[nn.Module]) -> None:
    """Whatever the module does when attributes are set."""
    object.__setattr__(module, "__class__", kind)


def release(token: Token) -> None:
    """Undo every ``hold`` of ``token``."""
    with lock:
        for module in [module for module, holders in _held.items() if token in holders]:
            holders = _held[module]
            del holders[token]
            _choose(module, holders)


def _choose(module: nn.Module, holders: dict[Token, type[nn.Module]]) -> None:
    if holders:
        _give_class(module, list(holders.values())[-1])
        return
    del _held[module]
    if classes.is_fast(module):  # else somebody gave it another class since
        _give_class(module, classes.plain_class(module))


def _copied(module: nn.Module, copy: Any) -> None:
    with lock:
        holders = _held.get(module)
        if holders and isinstance(copy, nn.Module):
            _held[copy] = dict(holders)
            _give_class(copy, type(module))


classes.copied = _copied
