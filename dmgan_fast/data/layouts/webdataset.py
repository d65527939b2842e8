"""WebDataset's shards: tar archives, read in any order through an index of their members.

    DIR/train-000000.tar     a.jpg with a.txt (captions, one a line) or a.json (caption, text or captions); a.cls: class
    DIR/test-000000.tar      or in folders named train/, val/, test/
    DIR/index.jsonl          of `dmgan-fast shard`: what they hold
    DIR/vocabulary.json      if the set has its own

The names of the archives or their folders give the parts. A single archive does as well. Each image without .cls is its
own class. The same may lie at an address, as s3://bucket/birds.
"""

from __future__ import annotations

import re
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dmgan_fast.data.layouts.base import box_of
from dmgan_fast.data.layouts.imagefolder import CAPTIONS, captions_of, class_of
from dmgan_fast.data.layouts.shard_index import INDEX, Index, read_index
from dmgan_fast.data.names import IMAGE_SUFFIXES
from dmgan_fast.data.remote import Remote, content_of, join, names_below, use
from dmgan_fast.data.rows import BROKEN, MISSING, NO_CAPTION, NO_IMAGE, UNREADABLE, Contents, Gatherer
from dmgan_fast.data.splits import role_of
from dmgan_fast.data.texts import require_content
from dmgan_fast.data.vocabulary import Vocabulary
from dmgan_fast.errors import DataError
from dmgan_fast.files import parse_json

NAME = "WebDataset shards"
SIGN = "train-000000.tar"
TEXTS = ("txt", "caption", "text")
PACKED = (".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar.zst")
VOCABULARY = "vocabulary.json"
OWN = "dmgan_fast"  # in a .json: box and as_stored, as in captions.jsonl; other people's sets may mean others by these


def is_here(folder: Path) -> bool:
    return bool(shards(folder))


def needed(folder: Path) -> dict[str, bool]:
    packed = dict.fromkeys(_packed(folder)[:1], True)
    return {"*.tar, unpacked": is_here(folder)} | packed


def read(folder: Path) -> Contents:
    gatherer = Gatherer()
    index = _index_of(folder, gatherer)
    if index is not None:
        _take(index, {name: _Archive(folder / name, name) for name in index.shards}, gatherer)
    else:
        for file in shards(folder):
            _read_shard(_Archive(file, _name_below(file, folder)), gatherer)
    if packed := _packed(folder):
        gatherer.notes.append(f"packed archives are not read, unpack them to .tar first: {', '.join(packed)}")
    words = folder / VOCABULARY
    return _contents(gatherer, folder, Vocabulary.load(words) if words.is_file() else None, index)


def read_remote(url: str) -> Contents:
    """A set at an address that fsspec knows. With an index, archives are not fetched before their images are needed.

    Raises:
        DataError: if it can't be read, or there are no archives.
    """
    gatherer = Gatherer()
    content = None if url.lower().endswith(".tar") else content_of(join(url, INDEX))
    index = None if content is None else read_index(content, join(url, INDEX))
    if index is not None:
        remotes = {name: Remote(join(url, name), *shard) for name, shard in index.shards.items()}
        _take(index, {name: _Archive(remote.file, name, remote) for name, remote in remotes.items()}, gatherer)
    else:
        for remote, name in _listed(url):
            archive = _Archive(remote.file, name, remote)
            use(remote, lambda _, archive=archive: _read_shard(archive, gatherer))  # type: ignore[misc]
        gatherer.notes.append(
            f"it has no {INDEX}, so all archives were fetched to see what is in them; `dmgan-fast shard` writes one"
        )
    return _contents(gatherer, url, _remote_vocabulary(url), index)


def _contents(gatherer: Gatherer, source: Path | str, words: Vocabulary | None, index: Index | None) -> Contents:
    gatherer.hold_out()
    return replace(gatherer.contents(source, NAME, words), window=index.window if index else 0)


# --------------------------------------------------------------------------------------------------- where archives lie


class _Archive:
    """``file``: the archive or its copy; ``name``: below the set; ``remote``: where it comes from."""

    def __init__(self, file: Path, name: str, remote: Remote | None = None) -> None:
        self.file, self.name, self.remote = file, name, remote
        folder, _, base = name.rpartition("/")
        part = re.split(r"[-_.]", base)[0]
        self.split = folder if role_of(folder) else part if role_of(part) else ""

    def __str__(self) -> str:
        return str(self.remote.url if self.remote else self.file)


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


def _name_below(file: Path, folder: Path) -> str:
    return file.name if file.parent == folder or file == folder else f"{file.parent.name}/{file.name}"


def _listed(url: str) -> list[tuple[Remote, str]]:
    """Archives at an address, or in folders of it that are named after parts."""
    if url.lower().endswith(".tar"):
        url, _, single = url.rpartition("/")
        found = {name: size for name, size in names_below(url).items() if name == single}
    else:
        found = names_below(url)
    names = sorted(
        name
        for name in found
        if name.lower().endswith(".tar") and ("/" not in name or role_of(name.rpartition("/")[0]))
    )
    if not names:
        raise DataError(f"no data set at {url!r}: neither {INDEX} nor *.tar is there; `dmgan-fast shard` writes both")
    return [(Remote(join(url, name), found[name]), name) for name in names]


def _remote_vocabulary(url: str) -> Vocabulary | None:
    content = None if url.lower().endswith(".tar") else content_of(join(url, VOCABULARY))
    if content is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, VOCABULARY)
        file.write_bytes(content)
        return Vocabulary.load(file)


# ------------------------------------------------------------------------------------------------------------- an index


def _index_of(folder: Path, gatherer: Gatherer) -> Index | None:
    """The index of a folder, if its archives are those that it was made of."""
    file = folder / INDEX
    if not file.is_file():
        return None
    index = read_index(file.read_bytes(), str(file))
    here = {_name_below(archive, folder): archive.stat().st_size for archive in shards(folder)}
    other = [name for name, size in here.items() if name not in index.shards or index.shards[name].bytes != size]
    if not other:
        return index
    gatherer.notes.append(f"{INDEX} is not used, since it does not know these archives: {', '.join(other[:3])}")
    return None


def _take(index: Index, archives: Mapping[str, _Archive], gatherer: Gatherer) -> None:
    """The rows of an index; those of archives that are gone can't be used."""
    gone = {name for name, archive in archives.items() if archive.remote is None and not archive.file.is_file()}
    for sample in index.samples:
        fault = (MISSING, f"{sample.shard}:{sample.key}: {archives[sample.shard]} is missing")
        _add(
            archives[sample.shard],
            sample.key,
            (sample.image, sample.offset, sample.size),
            (_captions_in(sample.values), sample.values, ""),
            gatherer,
            fault if sample.shard in gone else None,
        )


# ----------------------------------------------------------------------------------------------------------- an archive


def _read_shard(archive: _Archive, gatherer: Gatherer) -> None:
    for key, members in _samples(archive, gatherer).items():
        image = next((suffix for suffix in members if suffix.rpartition(".")[2] in _IMAGES), None)
        if image is None:
            gatherer.lose(f"{archive.name}:{key}", NO_IMAGE, f"{archive}: {key} has no image")
            continue
        _add(archive, key, members[image][:3], _said(members), gatherer)


def _add(
    archive: _Archive,
    key: str,
    place: tuple[str, int, int],
    words: tuple[list[str], Mapping[str, Any], str],
    gatherer: Gatherer,
    fault: tuple[str, str] | None = None,
) -> None:
    """A row. ``place``: name, offset and size of the image; ``words``: captions, other values, why there are none."""
    (name, offset, size), (said, values, why) = place, words
    own, box = values.get(OWN), None
    own = own if isinstance(own, dict) else {}
    try:
        box = None if own.get("box") is None else box_of(own["box"])
    except ValueError as error:
        fault = fault or (BROKEN, f"{archive}: {key}: {error}")
    gatherer.add(
        f"{archive.name}:{key}",
        (archive.file, ""),
        said,
        split=values.get("split") or archive.split,
        class_id=class_of(dict(values)),
        fault=fault or (None if said else (NO_CAPTION, f"{archive}: {key} has no caption{why}")),
        box=box,
        upright=box is None and own.get("as_stored") is not True,
        member=name,
        span=(offset, size),
        remote=archive.remote,
    )


_IMAGES = tuple(suffix[1:] for suffix in IMAGE_SUFFIXES)
Member = tuple[str, int, int, bytes]  # name, offset, size, content if it is no image


def _samples(shard: _Archive, gatherer: Gatherer) -> dict[str, dict[str, Member]]:
    """Key → suffix → member. A key that comes again, once it has that suffix, is another sample."""
    file = shard.file
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
            raise DataError(f"{shard} can't be read as a tar archive: {error}") from None
        why = f"{shard} is cut off or damaged after {len(samples)} samples: {error}"
        gatherer.lose(f"{shard.name}: the rest", UNREADABLE, why)
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
            loaded = parse_json(members["json"][3])
            values = loaded if isinstance(loaded, dict) else {}
        except ValueError as error:
            why = f": its .json is not JSON: {error}"
    if "cls" in members:
        values["class_id"] = members["cls"][3].decode("utf-8", "replace").strip()
    for suffix in TEXTS:
        if suffix in members:
            text = members[suffix][3].decode("utf-8-sig", "replace")
            return [line.strip() for line in text.split("\n") if line.strip()], values, why
    return _captions_in(values), values, why


def _captions_in(values: Mapping[str, Any]) -> list[str]:
    return next((captions_of(values[name]) or [] for name in CAPTIONS if name in values), [])
