"""Mean and covariance of real features from a file, as pytorch-fid and the authors publish them."""

from __future__ import annotations

import hashlib
import struct
import zipfile
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

from dmgan_fast.errors import DataError
from dmgan_fast.files import require_regular
from dmgan_fast.foreign import what_is

LARGEST = 1 << 30  # bytes unpacked: covariances of more than ten thousand features
DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError, RuntimeError)  # what zipfile raises


@dataclass(frozen=True)
class GivenStatistics:
    """``mean [D]`` and ``covariance [D, D]`` in float64, with the file's SHA-256."""

    file: Path
    sha256: str
    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def read(cls, file: Path) -> GivenStatistics:
        """Read an ``.npz`` with ``mu`` and ``sigma``, without unpickling anything.

        Raises:
            DataError: if it is missing, damaged or holds something else.
        """
        try:
            require_regular(file)
            content = file.read_bytes()
            _refuse_large(file, content)
            with np.load(BytesIO(content), allow_pickle=False) as arrays:
                mean, covariance = (np.asarray(arrays[name], np.float64) for name in ("mu", "sigma"))
        except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, MemoryError, *DAMAGED) as error:
            raise DataError(f"{file} is not an .npz file with mu and sigma: {_reason(file, error)}") from None
        if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
            raise DataError(f"{file}: mu must be [D] and sigma [D, D], got {mean.shape} and {covariance.shape}")
        return cls(file, hashlib.sha256(content).hexdigest(), mean, covariance)


def _refuse_large(file: Path, content: bytes) -> None:
    """What is packed says how large it is; no statistics are that large."""
    with zipfile.ZipFile(BytesIO(content)) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > LARGEST:
        raise DataError(f"{file} unpacks to {size:,} bytes, more than statistics of features have")


def _reason(file: Path, error: Exception) -> str:
    """What the file is, where that is known; numpy's advice to load it unsafely is never passed on."""
    if isinstance(error, OSError):
        return str(error)
    try:
        found = what_is(file)
    except OSError as unreadable:
        return str(unreadable)
    if found:
        return f"it is {found}"
    return "it holds objects that are not plain numbers" if "allow_pickle" in str(error) else str(error)
