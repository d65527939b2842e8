"""Checkpoints of states that are spread over processes: each writes what it holds, and any number of them reads it.

By ``torch.distributed.checkpoint`` in safetensors, with all that is not spread in one file beside: nothing in them is a
pickle that is run. The folder of a checkpoint appears once every process has written its part.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.tensor import DTensor

from dmgan_fast.errors import CheckpointError, DamagedCheckpointError
from dmgan_fast.foreign import read_torch
from dmgan_fast.runs.snapshot import snapshot

REST = "rest.pt"
SHARDED = "sharded tensor"  # in place of such a tensor in ``REST``: its name, shape and dtype
Path_ = tuple[Any, ...]  # keys and indices to a value in a state


class ShardWriter:
    """Writes sharded states in the background, one at a time; all processes call it alike.

    Its processes speak in a group of their own, so that writing does not come between the training's reductions.
    """

    def __init__(self) -> None:
        group = distributed.new_group(backend="gloo")
        assert isinstance(group, distributed.ProcessGroup)
        self._group = group

    def write(
        self, target: Path, state: dict[str, Any], begin: Callable[[], None], finish: Callable[[Path], None]
    ) -> Future[Any]:
        """Begin to write ``state``; it is free to change once this returns.

        Args:
            target: folder of the checkpoint.
            state: the same structure in every process.
            begin: called by the first process before anything is written; what it raises, the future raises in all.
            finish: called by the first process with the folder in which everything lies, under a temporary name.
        """
        spread, rest = _divide(state)
        rest = snapshot(rest)

        def write_rest(folder: Path) -> None:
            torch.save(rest, folder / REST)
            finish(folder)

        writer = _Writer(target.with_name(f".{target.name}.partial"), begin, write_rest)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PyTorch's, about itself
            found = async_save(spread, storage_writer=writer, process_group=self._group)
        assert isinstance(found, Future)
        return found


class _Writer(HuggingFaceStorageWriter):
    """Empties its folder before all write; calls ``begin`` then, and ``done`` after all have, in the first process."""

    def __init__(self, folder: Path, begin: Callable[[], None], done: Callable[[Path], None]) -> None:
        super().__init__(path=str(folder), save_distributed=True)
        self._folder, self._begin, self._done = folder, begin, done

    def prepare_global_plan(self, plans: list[Any]) -> list[Any]:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._begin()
        self._folder.mkdir(parents=True)
        return super().prepare_global_plan(plans)

    def finish(self, metadata: Any, results: Any) -> None:
        self._done(self._folder)


def reason(error: CheckpointException) -> str:
    """What went wrong first, without PyTorch's tracebacks."""
    rank, (first, _) = min(error.failures.items())
    return f"process {rank}: {first}"


def read_sharded(folder: Path, template: Any = None) -> dict[str, Any]:
    """The state in a folder that ``ShardWriter`` wrote, whole tensors in the main memory.

    Args:
        folder: of the checkpoint.
        template: a state whose sharded tensors take what is theirs and stand in the result; all processes then call
            this alike, in any number.

    Raises:
        CheckpointError: if it can't be read.
    """
    state = read_torch(folder / REST, "readable checkpoint")
    wanted: dict[str, Tensor] = {}
    try:
        state = _join(state, template, wanted)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load(wanted, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=template is None)
    except CheckpointException as error:
        raise DamagedCheckpointError(f"{folder}: not a readable checkpoint: {reason(error)}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpointError(f"{folder}: not a readable checkpoint: {REST} is odd: {error}") from None
    if not isinstance(state, dict):
        raise CheckpointError(f"{folder}: not a readable checkpoint: {REST} holds no state")
    return state


def _divide(state: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Sharded tensors by name, and the state with a mark in place of each."""
    spread: dict[str, Any] = {}

    def walk(value: Any, path: Path_) -> Any:
        if isinstance(value, DTensor):
            name = "/".join(map(str, path))
            spread[name] = value.detach()
            return {SHARDED: name, "shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
        if isinstance(value, dict):
            return {key: walk(each, (*path, key)) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(walk(each, (*path, index)) for index, each in enumerate(value))
        return value

    return spread, walk(state, ())


def _join(value: Any, template: Any, wanted: dict[str, Tensor]) -> Any:
    """The state with tensors to fill in place of the marks; ``wanted`` gets them by name."""
    if isinstance(value, dict) and SHARDED in value:
        name, shape = value[SHARDED], value["shape"]
        if isinstance(template, DTensor) and list(template.shape) == shape:
            wanted[name] = template
        else:
            wanted[name] = torch.empty(shape, dtype=getattr(torch, value["dtype"]))
        return wanted[name]
    if isinstance(value, dict):
        inside = template if isinstance(template, dict) else {}
        return {key: _join(each, inside.get(key), wanted) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        within = (
            template if isinstance(template, (list, tuple)) and len(template) == len(value) else [None] * len(value)
        )
        return type(value)(_join(each, one, wanted) for each, one in zip(value, within, strict=True))
    return value
