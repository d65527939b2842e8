"""WebDataset's shards: tar archives, read in any order through an index of their members.

    DIR/train-000000.tar     a.jpg with a.txt (captions, one a line) or a.json (caption, text or captions); a.cls: class
    DIR/test-000000.tar      or in folders named train/, val/, test/

The names of the archives or their folders give the parts. A single archive does as well. Each image without .cls is its
own class.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dmgan_fast.data.layouts.imagefolder import CAPTIONS, captions_of, class_of
from dmgan_fast.data.names import IMAGE_SUFFIXES
from dmgan_fast.data.rows import NO_CAPTION, NO_IMAGE, UNREADABLE, Contents, Gatherer
from dmgan_fast.data.splits import role_of
from dmgan_fast.data.texts import require_content
from dmgan_fast.errors import DataError

NAME = "WebDataset shards"
SIGN = "train-000000.tar"
TEXTS = ("txt", "caption", "text")
PACKED = (".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar.zst")


def is_here(folder: Path) -> bool:
    return bool(shards(folder))


def needed(folder: Path) -> dict[str, bool]:
    packed = dict.fromkeys(_packed(folder)[:1], True)
    return {"*.tar, unpacked": is_here(folder)} | packed


def read(folder: Path) -> Contents:
    gatherer = Gatherer()
    for file in shards(folder):
        _read_shard(file, folder, gatherer)
    if packed := _packed(folder):
        gatherer.notes.append(f"packed archives are not read, unpack them to .tar first: {', '.join(packed)}")
    gatherer.hold_out()
    return gatherer.contents(folder, NAME)


def shards(folder: Path) -> list[Path]:
    """Tar archives in ``folder``, or in folders of it that are named after parts."""
    return sorted(file for file in _files(folder) if file.suffix.lower() == ".tar")


def _packed(folder: Path) -> list[str]:
    return sorted(file.name for file in _files(folder) if file.name.lower().endswith(PACKED))


def _files(folder: Path) -> Iterator[Path]:
    if folder.is_file():
        yield folder
        return
    for entry in sorted(folder.iterdir()):
        if entry.is_file():
            yield entry
        elif entry.is_dir() and role_of(entry.name):
            yield from (file for file in entry.iterdir() if file.is_file())


def _read_shard(file: Path, folder: Path, gatherer: Gatherer) -> None:
    place = file.name if file.parent == folder or file == folder else f"{file.parent.name}/{file.name}"
    split = _split(file, folder)
    for key, members in _samples(file, place, gatherer).items():
        image = next((suffix for suffix in members if suffix.rpartition(".")[2] in _IMAGES), None)
        said, values, why = _said(members)
        if image is None:
            gatherer.lose(f"{place}:{key}", NO_IMAGE, f"{file}: {key} has no image")
            continue
        name, offset, size, _ = members[image]
        gatherer.add(
            f"{place}:{key}",
            (file, ""),
            said,
            split=values.get("split") or split,
            class_id=class_of(values),
            fault=None if said else (NO_CAPTION, f"{file}: {key} has no caption{why}"),
            upright=True,
            member=name,
            span=(offset, size),
        )


_IMAGES = tuple(suffix[1:] for suffix in IMAGE_SUFFIXES)
Member = tuple[str, int, int, bytes]  # name, offset, size, content if it is no image


def _samples(file: Path, place: str, gatherer: Gatherer) -> dict[str, dict[str, Member]]:
    """Key → suffix → member. A key that comes again, once it has that suffix, is another sample."""
    require_content(file)
    samples: dict[str, dict[str, Member]] = {}
    try:
        with tarfile.open(file, "r:") as archive:
            end = file.stat().st_size
            for member in archive:
                if not member.isfile():
                    continue
                key, suffix = _divide(member.name)
                if not suffix:
                    continue
                whole = member.offset_data + member.size <= end
                content = _content(archive, member) if suffix.rpartition(".")[2] not in _IMAGES and whole else b""
                number, name = 1, key
                while suffix in samples.get(name, {}):
                    number += 1
                    name = f"{key}#{number}"
                samples.setdefault(name, {})[suffix] = (member.name, member.offset_data, member.size, content)
            _require_end(file, archive.offset)
    except (tarfile.TarError, OSError, EOFError) as error:
        if not samples:
            raise DataError(f"{file} can't be read as a tar archive: {error}") from None
        why = f"{file} is cut off or damaged after {len(samples)} samples: {error}"
        gatherer.lose(f"{place}: the rest", UNREADABLE, why)
    return samples


def _require_end(file: Path, offset: int) -> None:
    """tarfile takes a damaged header for the end of an archive; the end proper is a block of zeros.

    Raises:
        TarError: if there is none at ``offset``.
    """
    with file.open("rb") as stream:
        stream.seek(offset)
        if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("no end mark where the members end")


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(member)
    return stream.read() if stream else b""


def _divide(name: str) -> tuple[str, str]:
    """``a/b`` and ``jpg`` of ``a/b.jpg``; as WebDataset does, the suffix begins at the first dot of the file's name."""
    found = re.fullmatch(r"(?:\./)?((?:.*/)?[^/.][^/.]*)\.([^/]*)", name)
    return (found[1], found[2].lower()) if found else (name, "")


def _said(members: dict[str, Member]) -> tuple[list[str], dict[str, Any], str]:
    """Captions of a sample, further values, and what is wrong if there are none."""
    values: dict[str, Any] = {}
    why = ""
    if "json" in members:
        try:
            loaded = json.loads(members["json"][3])
            values = loaded if isinstance(loaded, dict) else {}
        except (ValueError, RecursionError) as error:
            why = f": its .json is not JSON: {error}"
    if "cls" in members:
        values["class_id"] = members["cls"][3].decode("utf-8", "replace").strip()
    for suffix in TEXTS:
        if suffix in members:
            text = members[suffix][3].decode("utf-8-sig", "replace")
            return [line.strip() for line in text.split("\n") if line.strip()], values, why
    said = next((captions_of(values[name]) for name in CAPTIONS if name in values), None)
    return said or [], values, why


def _split(file: Path, folder: Path) -> str:
    if file.parent != folder and file != folder and role_of(file.parent.name):
        return file.parent.name
    part = re.split(r"[-_.]", file.name)[0]
    return part if role_of(part) else ""
