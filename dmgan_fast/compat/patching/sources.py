"""Python modules of others: models that their classes build from now on are fast, and so is their words loss.

A class keeps its identity: only its ``__init__`` is wrapped, and what the outermost one has built is patched as a tree.
"""

from __future__ import annotations

import functools
import threading
import types
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from dmgan_fast.compat.patching import holds
from dmgan_fast.compat.patching.report import Entry
from dmgan_fast.compat.patching.rules import Options, Refused
from dmgan_fast.compat.patching.words_loss import WHAT, fast_words_loss, is_candidate

_building = threading.local()  # how deep this thread is in wrapped constructors
Built = Callable[[nn.Module], None]
MISSING = object()


class Slots:
    """Attributes of classes and Python modules that patches put their own in, a stack for each.

    The latest patch in force is what the attribute holds; a value that somebody else put there since stays.
    """

    def __init__(self) -> None:
        self.stacks: dict[tuple[int, str], tuple[Any, Any, list[tuple[holds.Token, Any]]]] = {}

    def put(self, owner: Any, name: str, token: holds.Token, make: Callable[[Any], Any]) -> None:
        """``make`` gets what the attribute holds without us."""
        key = (id(owner), name)
        _, original, stack = self.stacks.setdefault(key, (owner, vars(owner).get(name, MISSING), []))
        inherited = getattr(owner, name) if original is MISSING else original
        value = make(inherited)
        stack.append((token, value))
        setattr(owner, name, value)

    def original(self, owner: Any, name: str) -> Any:
        """What the attribute holds without us."""
        known = self.stacks.get((id(owner), name))
        return getattr(owner, name) if known is None or known[1] is MISSING else known[1]

    def take(self, token: holds.Token) -> None:
        for key, (owner, original, stack) in list(self.stacks.items()):
            if not any(each is token for each, _ in stack):
                continue
            ours = any(vars(owner).get(key[1]) is value for _, value in stack)
            stack[:] = [(each, value) for each, value in stack if each is not token]
            if not stack:
                del self.stacks[key]
            if ours and stack:
                setattr(owner, key[1], stack[-1][1])
            elif ours and original is MISSING:
                delattr(owner, key[1])
            elif ours:
                setattr(owner, key[1], original)


slots = Slots()


def patch_source(source: types.ModuleType, options: Options, token: holds.Token, built: Built) -> list[Entry]:
    """Wrap the classes of models that ``source`` defines, and replace the words loss that its names lead to."""
    entries = []
    with holds.lock:
        for name, value in list(vars(source).items()):
            place = f"{source.__name__}.{name}"
            if isinstance(value, type) and issubclass(value, nn.Module) and value.__module__ == source.__name__:
                slots.put(value, "__init__", token, lambda own: _wrapped(own, token, built))
                entries.append(Entry(place, "class of models: those built from now on", True))
            elif options.words_loss and is_candidate(slots.original(source, name)):
                fast = fast_words_loss(slots.original(source, name))
                if isinstance(fast, Refused):
                    entries.append(Entry(place, fast.what, False, fast.reason))
                else:
                    slots.put(source, name, token, partial(_instead, fast))
                    entries.append(Entry(place, WHAT, True))
    return entries


def _instead(fast: Callable[..., Any], own: Callable[..., Any]) -> Callable[..., Any]:
    return fast


def _wrapped(own: Callable[..., None], token: holds.Token, built: Built) -> Callable[..., None]:
    @functools.wraps(own)
    def __init__(self: nn.Module, *arguments: Any, **named: Any) -> None:
        depths: dict[holds.Token, int] = _building.__dict__.setdefault("depths", {})
        depths[token] = depths.get(token, 0) + 1
        try:
            own(self, *arguments, **named)
        finally:
            depths[token] -= 1
            outermost = not depths[token]
            if outermost:
                del depths[token]
        if outermost:
            built(self)

    return __init__
