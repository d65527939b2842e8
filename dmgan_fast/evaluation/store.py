"""Rows of features in chunk files, so that what was computed once is not recomputed.

A store's folder is named after the hash of its key, which names everything the rows depend on: the contents of the
images (or what generates them), the network's weights, and how images are prepared. Other settings, other folder.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dmgan_fast.errors import CheckpointError
from dmgan_fast.files import replace_file

CHUNK = 128  # images a file, and the most that an interruption costs


def cache_folder() -> Path:
    """Where features of real images are kept: ``dmgan_fast`` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dmgan_fast" / "features"


def chunks_of(count: int) -> list[range]:
    """Rows 0 to ``count`` in chunks."""
    return [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]


class FeatureStore:
    """Chunks of one extractor's rows for one set of images."""

    def __init__(self, parent: Path, key: str) -> None:
        self.key = key
        self.folder = parent / hashlib.sha256(key.encode()).hexdigest()[:24]

    def has(self, rows: range) -> bool:
        """Whether the chunk is there."""
        return self._file(rows).is_file()

    def write(self, rows: range, outputs: dict[str, Tensor]) -> None:
        """Write a chunk, whole or not at all."""
        with replace_file(self._file(rows)) as temporary:
            tensors = {name: values.contiguous() for name, values in outputs.items()}
            save_file(tensors, temporary, metadata={"key": self.key})

    def read(self, rows: range, name: str) -> Tensor:
        """Rows ``[n, D]`` of the output ``name``.

        Raises:
            CheckpointError: if the file is damaged or belongs to another store.
        """
        file = self._file(rows)
        try:
            with safe_open(file, framework="pt") as opened:
                if (opened.metadata() or {}).get("key") == self.key:
                    values: Tensor = opened.get_tensor(name)
                    if len(values) == len(rows):
                        return values
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{file} can't be read: {error}; delete it and evaluate again") from None
        raise CheckpointError(f"{file} does not hold what its name says; delete it and evaluate again")

    def _file(self, rows: range) -> Path:
        return self.folder / f"{rows.start:08d}-{rows.stop:08d}.safetensors"
