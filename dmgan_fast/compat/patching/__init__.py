"""Others' code on the fused ops (docs/drop-in.md)."""

from dmgan_fast.compat.patching.handle import Handle, patch
from dmgan_fast.compat.patching.report import Entry, Report

__all__ = ["Entry", "Handle", "Report", "patch"]
