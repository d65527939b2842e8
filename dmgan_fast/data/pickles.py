"""Pickles of other people's data sets, read without executing anything in them."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from dmgan_fast.errors import DataError

# What the authors' caption, file-name and class files hold besides builtin containers, strings and numbers.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    ("collections", "OrderedDict"): dict,
    ("_codecs", "encode"): lambda text, encoding="latin1": text.encode("latin1"),
}
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _ALLOWED[_module, "scalar"] = np.core.multiarray.scalar if not hasattr(np, "_core") else np._core.multiarray.scalar
    _ALLOWED[_module, "_reconstruct"] = (
        np.core.multiarray._reconstruct if not hasattr(np, "_core") else np._core.multiarray._reconstruct
    )


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not allowed") from None


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """Containers, strings, numbers and numpy arrays from a pickle of Python 2 or 3.

    Raises:
        DataError: if the file is missing, broken, or asks for anything else (nothing is executed).
    """
    file = Path(path)
    try:
        with file.open("rb") as stream:
            return _Restricted(stream, encoding="latin1").load()
    except FileNotFoundError:
        raise DataError(f"file not found: {file}") from None
    except Exception as error:  # a broken pickle can raise almost anything
        raise DataError(f"{file}: not a pickle of plain data, so it was not read: {error}") from None
