"""All that is fuzzed, by name."""

from __future__ import annotations

from tools.fuzz import commands, functions, ops, readers

TARGETS = {target.name: target for room in (ops, functions, readers, commands) for target in room.targets()}
