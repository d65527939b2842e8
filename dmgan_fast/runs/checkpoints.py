"""Checkpoints of a run: written whole or not at all, checked on reading, read without executing anything, bits kept."""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from typing_extensions import Self

from dmgan_fast.errors import CheckpointError, DamagedCheckpointError
from dmgan_fast.files import file_digest, replace_file, sync, sync_below
from dmgan_fast.foreign import read_torch
from dmgan_fast.parallel import Processes
from dmgan_fast.runs.manifest import MANIFEST, damage, named, read_manifest, write_manifest
from dmgan_fast.runs.snapshot import bytes_of, is_sharded, snapshot
from dmgan_fast.sizes import show_size

FORMAT = 1
KINDS = ("gan", "damsm")
DAMAGED = ".damaged"  # added to the name of a checkpoint that is set aside
SPARE = 1 << 20  # bytes that a checkpoint may need beyond its tensors
_NAME = re.compile(r"step-(\d+)(\.pt)?")

_log = logging.getLogger("dmgan_fast.runs")


def checkpoint_file(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies; without ``.pt`` it is the folder of a sharded one."""
    return folder / f"step-{step:08d}.pt"


def find_checkpoint(folder: Path, step: int) -> Path | None:
    """The checkpoint of a step, sharded or not, if there is one."""
    return next((path for path in _all(folder) if step_of(path) == step), None)


def latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the highest step, or None. Whether it is whole, reading it says."""
    return max(_all(folder), default=None, key=step_of)


def steps_of(folder: Path) -> list[int]:
    """Steps that have a checkpoint, in order."""
    return sorted(map(step_of, _all(folder)))


def is_checkpoint(path: Path) -> bool:
    """Whether this is a file, as checkpoints are, or the folder of a sharded one."""
    return path.is_file() or (path.is_dir() and _NAME.fullmatch(path.name) is not None)


def _all(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [
        path for path in folder.iterdir() if (name := _NAME.fullmatch(path.name)) and path.is_file() == bool(name[2])
    ]


def step_of(path: Path) -> int:
    """Of a checkpoint's name."""
    found = _NAME.fullmatch(path.name)
    assert found is not None
    return int(found[1])


# ----------------------------------------------------------------------------------------------------------- reading


def load_checkpoint(file: Path, kind: str | None = None, *, mmap: bool = False, template: Any = None) -> dict[str, Any]:
    """Read a checkpoint of ``kind`` (``"gan"``, ``"damsm"``), or of any, after comparing it with its checksums.

    Args:
        file: the file, or the folder of a sharded one.
        mmap: leave tensors in the file until they are looked at.
        template: of a sharded one, see ``sharded.read_sharded``.

    Raises:
        DamagedCheckpointError: if it is not what was written, or unreadable, or holds more than plain data.
        CheckpointError: if it is not there, or of another kind or format.
    """
    state = _read(file, mmap, template)
    found = state if isinstance(state, dict) else {}
    if found.get("format") != FORMAT or found.get("kind") not in ((kind,) if kind else KINDS):
        written = f"{found['kind']}, format {found.get('format')}" if "kind" in found else "a file of something else"
        raise CheckpointError(
            f"{file}: expected a {kind or ' or '.join(KINDS)} checkpoint of format {FORMAT}, got {written}"
        )
    return found


def _read(file: Path, mmap: bool, template: Any) -> Any:
    if not file.exists():
        raise CheckpointError(f"checkpoint not found: {file}")
    require_whole(file)
    if file.is_dir():
        from dmgan_fast.runs.sharded import read_sharded  # loads much: only if there is one

        return read_sharded(file, template)
    try:
        return read_torch(file, "readable checkpoint", mmap=mmap)
    except CheckpointError as error:
        raise DamagedCheckpointError(str(error)) from None


def require_whole(file: Path) -> None:
    """Raise ``DamagedCheckpointError`` if a checkpoint is not what was written, as far as its checksums tell."""
    try:
        why = damage(file)
    except OSError as error:
        if error.errno == errno.EIO:
            raise DamagedCheckpointError(f"{file}: not a readable checkpoint: {error.strerror}") from None
        raise CheckpointError(f"{file} can't be read: {error.strerror}") from None
    if why is not None:
        raise DamagedCheckpointError(f"{file}: not a readable checkpoint, it is damaged: {why}")


def newest_whole(folder: Path) -> tuple[Path | None, list[DamagedCheckpointError]]:
    """The newest checkpoint that can be read, and what is wrong with those after it.

    Raises:
        CheckpointError: if there are some, and none can be read.
    """
    damaged: list[DamagedCheckpointError] = []
    for path in sorted(_all(folder), key=step_of, reverse=True):
        try:
            _read(path, mmap=True, template=None)
            return path, damaged
        except DamagedCheckpointError as error:
            damaged.append(error)
    if damaged:
        raise CheckpointError(f"no checkpoint in {folder} can be read: {'; '.join(map(str, damaged))}")
    return None, damaged


# ----------------------------------------------------------------------------------------------------------- writing


def save_checkpoint(file: Path, state: dict[str, Any], keep: int, *, keep_also: Collection[int] = ()) -> None:
    """Write ``state`` and its checksum, then remove all but the ``keep`` newest checkpoints beside it.

    Args:
        file: as ``checkpoint_file`` names it.
        state: plain data and tensors.
        keep: how many to keep, at the least.
        keep_also: steps whose checkpoints are kept too.

    Raises:
        CheckpointError: if it can't be written (a full disk, say), with the space that it needs; older checkpoints are
            then as they were.
    """
    needed = bytes_of(state)
    require_space(file, needed)
    try:
        with replace_file(file, durable=True) as temporary:
            torch.save({"format": FORMAT, **state}, temporary)
            entries = {file.name: file_digest(temporary)}
            _forget(file)
        _record(file, entries, keep, keep_also)
    except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
        raise _unwritten(file, needed, error) from error


def require_space(file: Path, needed: int) -> None:
    """Raise ``CheckpointError`` unless there is room for a new file of so many bytes."""
    free = _free(file.parent)
    if free is not None and free < needed + SPARE:
        raise _unwritten(file, needed, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))


def _unwritten(file: Path, needed: int, error: BaseException) -> CheckpointError:
    free = _free(file.parent)
    room = "" if free is None else f", {show_size(free)} are free there"
    return CheckpointError(
        f"checkpoint {file} could not be written, older ones are intact: {error}; it takes {show_size(needed)}{room}"
    )


def _free(folder: Path) -> int | None:
    """Bytes that may still be written there; None if the system does not say."""
    place = next((each for each in (folder, *folder.parents) if each.exists()), None)
    try:
        return None if place is None else shutil.disk_usage(place).free
    except OSError:
        return None


def _forget(file: Path) -> None:
    """Take an older checkpoint of the same name out of the manifest, before its file is replaced."""
    entries = read_manifest(file.parent)
    if old := named(entries, file):
        write_manifest(file.parent, {name: entry for name, entry in entries.items() if name not in old})


def _record(path: Path, entries: dict[str, Any], keep: int, keep_also: Collection[int]) -> None:
    """Name a new checkpoint in the manifest, and remove those that are not kept."""
    folder = path.parent
    write_manifest(folder, read_manifest(folder) | entries)
    old = [
        each for each in sorted(_all(folder), key=step_of)[:-keep] if step_of(each) not in keep_also and each != path
    ]
    for each in old:
        with suppress(OSError):  # what can't be removed does no harm
            _remove(each)
    if old:
        write_manifest(folder, read_manifest(folder))


def _remove(path: Path) -> None:
    if path.is_dir():
        hidden = path.with_name(f".{path.name}.old")  # a folder that is half gone must not be taken for a checkpoint
        path.rename(hidden)
        shutil.rmtree(hidden)
    else:
        path.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------------------- a run's


class Checkpoints:
    """The checkpoints of a run that continues: writes them while training continues, finds the newest that is whole.

    A checkpoint is first copied in memory, which takes as much memory as its file takes on the disk, and is then
    written by a thread. Only one is written at a time: the next ``save`` waits for it. What fails there is raised by
    the next ``save``, by ``wait``, or at the end of the ``with`` block, which waits too.

    Among several processes all call each method alike. The first one writes, unless the state holds ``DTensor``: then
    each writes its part, and any number of processes reads them.

    Args:
        folder: of the checkpoints.
        keep: how many of the newest.
        background: False: ``save`` returns when all is written, and needs no memory.
    """

    def __init__(self, folder: Path, *, keep: int = 2, background: bool = True) -> None:
        self.folder, self.keep, self.background = folder, keep, background
        self.best: int | None = None  # a step whose checkpoint is kept for as long as it is the best
        self._processes = Processes.of()
        self._thread: ThreadPoolExecutor | None = None
        self._waiting: list[Future[Any]] = []
        self._shards: Any = None

    def __enter__(self) -> Self:
        """Make the folder, see that it can be written, and remove what an interrupted process left half written.

        Raises:
            CheckpointError: if it can't be written.
        """
        if self._processes.first:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=self.folder):
                    pass
            except OSError as error:
                raise CheckpointError(f"checkpoints can't be written to {self.folder}: {error.strerror}") from None
            for left in self.folder.glob(".step-*"):
                shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            self.wait()
        except CheckpointError as failed:
            if error is None:
                raise
            _log.error("%s", failed)  # beside what ends the run
        finally:
            if self._thread is not None:
                self._thread.shutdown()
                self._thread = None

    def save(self, state: dict[str, Any], then: Callable[[], None] | None = None) -> None:
        """Write the checkpoint of ``state["step"]``; ``state`` is free to change once this returns.

        Args:
            state: with ``kind`` and ``step``.
            then: what to write next, in the same thread; it must not need what training changes.

        Raises:
            CheckpointError: if this one can't be written, or the one before could not.
        """
        self.wait()
        file = checkpoint_file(self.folder, state["step"])
        if is_sharded(state):
            self._save_shards(file.with_suffix(""), state, then)
        elif self._processes.first:
            require_space(file, bytes_of(state))
            self._later(lambda state: self._write(file, state, then), state)

    def later(self, work: Callable[[], None]) -> None:
        """Do further writing in the background; as with ``save``, what fails is raised later."""
        if self._processes.first:
            self._later(lambda _: work(), None)

    @property
    def busy(self) -> bool:
        """Whether something is being written."""
        return any(not each.done() for each in self._waiting)

    def wait(self) -> None:
        """Return when all is written.

        Raises:
            CheckpointError: if something could not be.
        """
        wait(self._waiting)  # an error of a signal's handler that is raised in here is none of writing
        waiting, self._waiting = self._waiting, []
        failed = [error for each in waiting if isinstance(error := each.exception(), Exception)]
        if failed:
            raise _told(failed[0]) from failed[0]

    def load(self, kind: str | None = None, template: Any = None) -> tuple[Path, dict[str, Any]] | None:
        """``newest`` and what is in it; None if there is none.

        Args:
            kind, template: as in ``load_checkpoint``.

        Raises:
            CheckpointError: as ``newest`` and ``load_checkpoint``.
        """
        path = self.newest()
        return None if path is None else (path, load_checkpoint(path, kind, template=template))

    def newest(self) -> Path | None:
        """The newest checkpoint that is whole, the same in all processes; None if there is none.

        Newer ones that are damaged are set aside under another name, and said to be.

        Raises:
            CheckpointError: if there are some, and none can be read.
        """
        chosen: Path | None = None
        failure: str | None = None
        if self._processes.first:
            try:
                chosen = self._choose()
            except CheckpointError as error:
                failure = str(error)
        chosen, failure = self._processes.from_first((chosen, failure))
        if failure is not None:
            raise CheckpointError(failure)
        return chosen

    def _choose(self) -> Path | None:
        path, damaged = newest_whole(self.folder)
        for each, error in zip(sorted(_all(self.folder), key=step_of, reverse=True), damaged, strict=False):
            aside = each.with_name(each.name + DAMAGED)
            with suppress(OSError):
                shutil.rmtree(aside, ignore_errors=True)
                os.replace(each, aside)
            _log.warning("going on from step %s: %s (kept as %s)", "-" if path is None else step_of(path), error, aside)
        if path is not None and not damaged and (gone := _gone(self.folder, path)):
            _log.warning("going on from step %d: %s names %s, which is not there", step_of(path), MANIFEST, gone)
        return path

    def _later(self, work: Callable[[Any], None], state: Any) -> None:
        if self.background:
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
            self._waiting.append(self._thread.submit(work, snapshot(state)))
            return
        try:
            work(state)
        except OSError as error:
            raise _told(error) from error

    def _write(self, file: Path, state: dict[str, Any], then: Callable[[], None] | None) -> None:
        save_checkpoint(file, state, self.keep, keep_also=self._kept())
        if then is not None:
            then()

    def _kept(self) -> tuple[int, ...]:
        return () if self.best is None else (self.best,)

    def _save_shards(self, target: Path, state: dict[str, Any], then: Callable[[], None] | None) -> None:
        from dmgan_fast.runs.sharded import ShardWriter  # loads much: only where it is needed

        needed = bytes_of(state) * self._processes.size

        def finish(temporary: Path) -> None:
            sync_below(temporary)
            entries = {f"{target.name}/{file.name}": file_digest(file) for file in sorted(temporary.iterdir())}
            _forget(target)
            if target.exists():
                _remove(target)
            os.replace(temporary, target)
            sync(self.folder)
            _record(target, entries, self.keep, self._kept())
            if then is not None:
                then()

        self._shards = self._shards or ShardWriter()
        begin = partial(require_space, target, needed)
        self._waiting.append(self._shards.write(target, {"format": FORMAT, **state}, begin, finish))
        if not self.background:
            self.wait()


def _told(error: Exception) -> CheckpointError:
    if isinstance(error, CheckpointError):
        return error
    failures = getattr(error, "failures", None)  # of torch.distributed.checkpoint, by process
    if failures:
        from dmgan_fast.runs.sharded import reason

        return CheckpointError(f"a checkpoint could not be written, older ones are intact: {reason(error)}")  # type: ignore[arg-type]
    return CheckpointError(f"what belongs to a checkpoint could not be written: {type(error).__name__}: {error}")


def _gone(folder: Path, newest: Path) -> str | None:
    """The newest checkpoint of the manifest, if it is newer than all that are there."""
    names = {name.split("/")[0] for name in read_manifest(folder)}
    steps = {int(found[1]): name for name in names if (found := _NAME.fullmatch(name))}
    last = max(steps, default=-1)
    return steps[last] if last > step_of(newest) else None


# ------------------------------------------------------------------------------------------------------- random states


def random_state() -> dict[str, Any]:
    """State of PyTorch's global generators."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what ``random_state`` gave."""
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
