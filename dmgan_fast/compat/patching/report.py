"""What a patch replaced, what it left, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """``place``: the module's name in its tree, or a function's or class's own. ``reason``: of what was left."""

    place: str
    what: str
    replaced: bool
    reason: str = ""


class Report(tuple[Entry, ...]):
    """Entries in the order of the modules; as text, equal ones stand once, with their number and some places."""

    __slots__ = ()

    @property
    def replaced(self) -> list[Entry]:
        return [entry for entry in self if entry.replaced]

    @property
    def left(self) -> list[Entry]:
        return [entry for entry in self if not entry.replaced]

    def __str__(self) -> str:
        lines = []
        for title, entries in (("replaced", self.replaced), ("left as it is", self.left)):
            lines.append(f"{title}: {len(entries)}")
            lines += [f"  {line}" for line in _lines(entries)]
        return "\n".join(lines)


def _lines(entries: Iterable[Entry]) -> list[str]:
    """One for each (what, reason), with the first places."""
    entries = list(entries)
    counts = Counter((entry.what, entry.reason) for entry in entries)
    lines = []
    for (what, reason), count in counts.items():
        places = [
            entry.place or "(the model itself)" for entry in entries if (entry.what, entry.reason) == (what, reason)
        ]
        more = f", and {count - 2} more" if count > 3 else ""
        shown = ", ".join(places[:2] if more else places) + more
        lines.append(f"{count} × {what}" + (f": {reason}" if reason else "") + f" [{shown}]")
    return lines
