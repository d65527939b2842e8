"""Pickles of other people's data sets, read without executing anything in them."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

from dmgan_fast.data.texts import require_content
from dmgan_fast.errors import DataError
from dmgan_fast.files import require_regular
from dmgan_fast.foreign import NumpyType


class _Array(list[Any]):
    """Stands for ``numpy.ndarray``: the elements as a list."""

    def __init__(self, *_: Any) -> None:
        super().__init__()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, _, dtype, _, content = state
        self.extend(content if isinstance(content, list) else dtype.read(content))


# What the authors' caption, file-name and class files hold besides builtin containers, strings and numbers.
# Nothing of numpy is called with the file's arguments: arrays become lists, numbers Python's own.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): NumpyType,
    ("numpy", "ndarray"): _Array,
    ("collections", "OrderedDict"): dict,
    ("_codecs", "encode"): lambda text, encoding="latin1": text.encode("latin1"),
}
for _core in ("numpy.core", "numpy._core"):
    _ALLOWED[f"{_core}.multiarray", "scalar"] = lambda dtype, raw: dtype.read(raw)[0]
    _ALLOWED[f"{_core}.multiarray", "_reconstruct"] = _Array
    _ALLOWED[f"{_core}.numeric", "_frombuffer"] = lambda raw, dtype, *_: dtype.read(bytes(raw))
for _builtin in (set, frozenset, bytearray):
    _ALLOWED["builtins", _builtin.__name__] = _ALLOWED["__builtin__", _builtin.__name__] = _builtin


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not allowed") from None


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """Containers, strings and numbers (numpy arrays as lists) from a pickle of Python 2 or 3.

    Raises:
        DataError: if the file is missing, broken, or asks for anything else (nothing is executed).
    """
    file = Path(path)
    if file.is_file():
        require_content(file)
    try:
        require_regular(file)
        with file.open("rb") as stream:
            return _Restricted(stream, encoding="latin1").load()
    except FileNotFoundError:
        raise DataError(f"file not found: {file}") from None
    except Exception as error:  # a broken pickle can raise almost anything
        raise DataError(f"{file}: not a pickle of plain data, so it was not read: {error}") from None
