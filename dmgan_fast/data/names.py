"""Files found by the names that lists hold: either slash, any case, with an extension or without, in sub-folders."""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".jfif")
TEXT_SUFFIXES = (".txt",)


def tidy(name: str) -> str:
    """``name`` with forward slashes and without a leading ``./``."""
    return posixpath.normpath(name.strip().replace("\\", "/"))


def is_outside(name: str) -> bool:
    """Whether a name leaves its folder: absolute, with a drive, or through ``..``."""
    clean = tidy(name)
    return clean.startswith(("/", "../")) or clean == ".." or bool(re.match(r"[A-Za-z]:/", clean))


def without_suffix(name: str, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> str:
    """``a/b`` for ``a/b.JPG``; other endings stay, since keys may hold dots."""
    stem, suffix = posixpath.splitext(name)
    return stem if suffix.lower() in suffixes else name


def files_below(folder: Path, suffixes: tuple[str, ...], most: int | None = None) -> Iterator[str]:
    """Names relative to ``folder``, with ``/``, in order; links are followed, each folder once; hidden ones are not.

    Stops once about ``most`` directory entries were seen.
    """
    seen: set[tuple[int, int]] = set()
    passed = 0
    for root, folders, files in os.walk(folder, followlinks=True):
        passed += len(folders) + len(files)
        if most is not None and passed > most and seen:
            return
        status = os.stat(root)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        relative = os.path.relpath(root, folder).replace(os.sep, "/")
        for name in sorted(files):
            if name.lower().endswith(suffixes) and not name.startswith("."):
                yield name if relative == "." else f"{relative}/{name}"


class Files:
    """The files of ``folder`` with one of ``suffixes``.

    Args:
        folder: with all below it.
        suffixes: in lower case, the most likely first.
        by_stem: a name stands for a file of another extension too.
        anywhere: a name stands for a file in any sub-folder.
    """

    def __init__(
        self, folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES, *, by_stem: bool = True, anywhere: bool = False
    ) -> None:
        self.folder, self.suffixes, self.by_stem, self.anywhere = folder, suffixes, by_stem, anywhere

    def find(self, name: str) -> tuple[Path | None, str]:
        """The file that ``name`` stands for, or None and why not."""
        likely = name if name.lower().endswith(self.suffixes) else name + self.suffixes[0]
        if ".." not in name and name[:1] not in ("/", "\\") and os.path.isfile(file := f"{self.folder}/{likely}"):
            return Path(file), ""
        if is_outside(name):
            return None, f"{name!r} is outside the folder {self.folder}"
        clean = tidy(name)
        for direct in (clean, clean + self.suffixes[0]):
            if direct.lower().endswith(self.suffixes) and os.path.isfile(file := f"{self.folder}/{direct}"):
                return Path(file), ""
        for fit in self._fits(clean):
            if len(fit) == 1:
                return self.folder / fit[0], ""
            if fit:
                return None, f"{len(fit)} files fit {name!r}: {', '.join(fit[:3])}"
        near = self._names.get(_key(without_suffix(clean, self.suffixes)), [])
        there = f" (there is {', '.join(near[:3])})" if near else ""
        return None, f"not found: {self.folder / clean}{there}"

    def _fits(self, name: str) -> Iterator[list[str]]:
        """Files by ever looser readings of ``name``."""
        yield self._names.get(_key(name), [])
        if self.by_stem or not name.lower().endswith(self.suffixes):
            yield self._names.get(_key(without_suffix(name, self.suffixes)), [])
        if self.anywhere:
            base = posixpath.basename(name)
            yield self._bases.get(_key(base), [])
            yield self._bases.get(_key(without_suffix(base, self.suffixes)), [])

    @cached_property
    def all(self) -> list[str]:
        """Names relative to the folder."""
        return list(files_below(self.folder, self.suffixes))

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        return _index(self.all, lambda name: name, self.suffixes)

    @cached_property
    def _bases(self) -> dict[str, list[str]]:
        return _index(self.all, posixpath.basename, self.suffixes)


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _index(names: list[str], part: Callable[[str], str], suffixes: tuple[str, ...]) -> dict[str, list[str]]:
    """Names by ``part`` of them, with and without extension."""
    found: dict[str, list[str]] = {}
    for name in names:
        for key in {_key(part(name)), _key(without_suffix(part(name), suffixes))}:
            found.setdefault(key, []).append(name)
    return found
