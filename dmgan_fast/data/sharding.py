"""Write a data set of any layout as WebDataset shards, in a folder or at any address that fsspec knows."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from dmgan_fast.data.check import Report
from dmgan_fast.data.conversion import as_values, require_empty, suffix_of, usable, whole_or_not
from dmgan_fast.data.layouts.shard_index import INDEX, WINDOW, Index, Sample, write_index
from dmgan_fast.data.layouts.webdataset import OWN, VOCABULARY
from dmgan_fast.data.randomness import generator
from dmgan_fast.data.record import read_bytes
from dmgan_fast.data.remote import is_remote, join, names_below, system_of
from dmgan_fast.data.rows import LeftOut, Row
from dmgan_fast.errors import DataError, InputError
from dmgan_fast.files import FileDigest, file_digest

SHARD_BYTES = 256 << 20
LEAST = 1 << 10
REST = "rest"  # of no split that is used


def shard(
    report: Report,
    out: str | os.PathLike[str],
    *,
    skip_bad: int = 0,
    shard_bytes: int = SHARD_BYTES,
    window: int = WINDOW,
    seed: int = 0,
    tick: Callable[[], object] = lambda: None,
) -> tuple[int, int, list[LeftOut]]:
    """Write the images and captions of a set that was looked at, in random order, with an index.

    Files stay as they are. The same set, seed and sizes give the same bytes.

    Args:
        report: of ``check_data``.
        out: a folder that does not exist or is empty, or an address (``s3://bucket/birds``). A folder appears once all
            is written; at an address the index comes last.
        skip_bad: continue without at most so many images that can't be used.
        shard_bytes: of an archive, at the most, unless one image is larger.
        window: archives whose images training shuffles together, and has on each machine at a time.
        seed: of the order.
        tick: called after each image.

    Returns:
        how many images and archives were written, and what was not.

    Raises:
        InputError: if ``out`` holds something, or a size is none.
        DataError: if more can't be used than ``skip_bad`` allows, or ``out`` can't be written.
    """
    if shard_bytes < LEAST:
        raise InputError(f"shard_bytes must be at least {LEAST}, got {shard_bytes}")
    if window < 1:
        raise InputError(f"window must be 1 or more archives, got {window}")
    rows, left_out = usable(report, skip_bad)
    order = torch.randperm(len(rows), generator=generator(seed, "shards")).tolist()
    with _target(out) as store:
        writer = _Writer(store, shard_bytes)
        for number in order:
            writer.add(*rows[number])
            tick()
        writer.close()
        vocabulary = report.facts.contents.vocabulary
        if vocabulary is not None:
            file = store.folder / VOCABULARY
            vocabulary.save(file)
            store.give(file)
        index = store.folder / INDEX
        index.write_text(
            write_index(Index(writer.shards, window, tuple(writer.samples))), encoding="utf-8", newline="\n"
        )
        store.give(index)
    return len(rows), len(writer.shards), left_out


class _Writer:
    """Fills the archives of each split side by side, and closes each when it is full."""

    def __init__(self, store: _Store, shard_bytes: int) -> None:
        self.store, self.shard_bytes = store, shard_bytes
        self.shards: dict[str, FileDigest] = {}
        self.samples: list[Sample] = []
        self._open: dict[str, tarfile.TarFile] = {}
        self._counts: dict[str, int] = {}

    def add(self, row: Row, role: str | None) -> None:
        content = read_bytes(row.record)
        values = _values(row, role)
        said = json.dumps(values, ensure_ascii=False).encode()
        part = role or REST
        archive = self._open.get(part)
        if archive is not None and archive.offset + len(content) + len(said) + 4 * tarfile.BLOCKSIZE > self.shard_bytes:
            self._close(part)
            archive = None
        if archive is None:
            archive = self._begin(part)
        key = f"{len(self.samples):09d}"
        image = key + suffix_of(row.record, content)
        _put(archive, f"{key}.json", said)
        offset = _put(archive, image, content)
        self.samples.append(Sample(_name(archive), key, image, offset, len(content), values))

    def close(self) -> None:
        for part in list(self._open):
            self._close(part)
        self.samples.sort(key=lambda sample: sample.shard)  # in the order of the archives, as they are read

    def _begin(self, part: str) -> tarfile.TarFile:
        number = self._counts.get(part, 0)
        self._counts[part] = number + 1
        file = self.store.folder / f"{part}-{number:06d}.tar"
        self._open[part] = tarfile.open(file, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115  (closed when full)
        return self._open[part]

    def _close(self, part: str) -> None:
        archive = self._open.pop(part)
        archive.close()
        file = self.store.folder / _name(archive)
        self.shards[file.name] = file_digest(file)
        self.store.give(file)


def _values(row: Row, role: str | None) -> dict[str, Any]:
    values = as_values(row, role)
    own = {name: values.pop(name) for name in ("box", "as_stored") if name in values}
    return values | ({OWN: own} if own else {})


def _name(archive: tarfile.TarFile) -> str:
    return Path(str(archive.name)).name


def _put(archive: tarfile.TarFile, name: str, content: bytes) -> int:
    """Add a file; where its content begins."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o644
    offset = archive.offset + tarfile.BLOCKSIZE
    archive.addfile(member, BytesIO(content))
    return offset


# ------------------------------------------------------------------------------------------------------- where they go


class _Store:
    """Files are made in ``folder``, and given away when they are whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def give(self, file: Path) -> None:
        """They stay where they are."""


class _RemoteStore(_Store):
    """Files go to an address one by one, and are removed here."""

    def __init__(self, folder: Path, url: str) -> None:
        super().__init__(folder)
        self.url = url
        self._given: list[str] = []

    def give(self, file: Path) -> None:
        url = join(self.url, file.name)
        system, path = system_of(url)
        self._given.append(url)
        try:
            system.makedirs(path.rpartition("/")[0], exist_ok=True)
            system.put_file(str(file), path)
        except Exception as error:  # file systems raise whatever their libraries do
            raise DataError(f"{url} can't be written: {type(error).__name__}: {error}") from None
        file.unlink()

    def take_back(self) -> None:
        """Remove what was written."""
        for url in self._given:
            system, path = system_of(url)
            try:
                system.rm_file(path)
            except Exception:  # it may not have come that far
                continue


@contextmanager
def _target(out: str | os.PathLike[str]) -> Iterator[_Store]:
    if not is_remote(out):
        require_empty(Path(out))
        with whole_or_not(Path(out)) as folder:
            yield _Store(folder)
        return
    url = str(out)
    if there := names_below(url):
        raise InputError(f"{url} is there already and not empty ({', '.join(sorted(there)[:3])}); give another --out")
    folder = Path(tempfile.mkdtemp(prefix="dmgan_fast-"))
    store = _RemoteStore(folder, url)
    try:
        yield store
    except BaseException:
        store.take_back()
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
