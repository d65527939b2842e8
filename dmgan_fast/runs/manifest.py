"""What each file of a run's checkpoints must hold: sizes and SHA-256, in one JSON file beside them.

It is written after the checkpoint itself. A checkpoint that it does not name (of an older version, or of a process that
was killed in between) is judged by the checksums that a PyTorch file carries inside.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

from dmgan_fast.files import FileDigest, file_digest, load_json, write_text

MANIFEST = "manifest.json"
FORMAT = 1


def read_manifest(folder: Path) -> dict[str, FileDigest]:
    """Entries by path below ``folder``; none where there is no manifest that can be read."""
    try:
        found = load_json(folder / MANIFEST)
        return {name: FileDigest(int(each["bytes"]), str(each["sha256"])) for name, each in found["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def write_manifest(folder: Path, entries: Mapping[str, FileDigest]) -> None:
    """Replace the manifest of ``folder``; entries of files that are gone are dropped."""
    files = {name: entry._asdict() for name, entry in sorted(entries.items()) if (folder / name).is_file()}
    write_text(folder / MANIFEST, json.dumps({"format": FORMAT, "files": files}, indent=2) + "\n", durable=True)


def named(entries: Mapping[str, FileDigest], checkpoint: Path) -> dict[str, FileDigest]:
    """The entries of one checkpoint."""
    name = checkpoint.name
    return {path: entry for path, entry in entries.items() if path == name or path.startswith(f"{name}/")}


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint; None if every byte is as it was written, as far as that is known.

    Raises:
        OSError: if it can't be read.
    """
    folder = checkpoint.parent
    entries = named(read_manifest(folder), checkpoint)
    if not entries:
        return _damaged_inside(checkpoint) if checkpoint.is_file() else None
    for path, entry in entries.items():
        file = folder / path
        if not file.is_file():
            return f"{path} is missing"
        size = file.stat().st_size
        if size != entry.bytes:
            return f"{path} has {size:,} bytes, but {entry.bytes:,} were written"
        if file_digest(file).sha256 != entry.sha256:
            return f"{path} is not what was written: its SHA-256 differs from the one in {MANIFEST}"
    return None


def _damaged_inside(file: Path) -> str | None:
    """By the checksums in a zip archive, as PyTorch's files are."""
    try:
        if not zipfile.is_zipfile(file):
            return None  # cut short, or something else altogether: reading it says what
        with zipfile.ZipFile(file) as archive:
            broken = archive.testzip()
    except OSError:
        raise
    except Exception as error:  # a broken archive can raise almost anything
        return f"its archive is broken: {error}"
    return None if broken is None else f"{broken} inside it is not what was written"
