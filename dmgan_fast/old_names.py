"""Names of earlier versions: they go on working, and say what they are called now."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any


def warn_of(old: str, new: str, *, stacklevel: int = 3) -> None:
    """Say, once for each place that uses it, what ``old`` is called now."""
    warnings.warn(f"{old} is called {new} now; the old name will go", FutureWarning, stacklevel=stacklevel)


def old_names(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a module some of whose names have changed: old name → new."""

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warn_of(f"{module}.{name}", names[name])
        return getattr(sys.modules[module], names[name])

    return find
