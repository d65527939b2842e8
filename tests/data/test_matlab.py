"""Arrays of MATLAB's files, as scipy writes and reads them, and files that are damaged anywhere."""

import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmgan_fast.data.matlab import read_arrays
from dmgan_fast.errors import DataError

ARRAYS = {
    **{
        name: (np.arange(7) * 13 % 11).astype(name)
        for name in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64")
    },
    "matrix": np.arange(12.0).reshape(3, 4) / 8,
    "one": 5,
    "nothing": np.zeros((0, 0)),
    "a_name_that_does_not_fit_into_a_tag": [1, 2],
}
OTHERS = {"text": "words", "cells": np.array([[1, "a"]], dtype=object), "structure": {"a": 1}, "truth": [True, False]}


@pytest.mark.parametrize("packed", [False, True])
def test_arrays_are_those_that_scipy_wrote(tmp_path, packed):
    file = tmp_path / "a.mat"
    scipy.io.savemat(file, ARRAYS | OTHERS, do_compression=packed)
    found, theirs = read_arrays(file), scipy.io.loadmat(file)
    assert sorted(set(found) - {"truth"}) == sorted(ARRAYS)
    for name, array in found.items():
        np.testing.assert_array_equal(array, theirs[name].ravel(order="F"))


def test_the_order_of_bytes_is_the_file_s(tmp_path):
    name, numbers = b"labels", np.array([1, 258], ">u2").tobytes()
    parts = struct.pack(">IIII", 6, 8, 11, 0) + struct.pack(">IIii", 5, 8, 1, 2)
    parts += struct.pack(">II", 1, len(name)) + name.ljust(8, b"\0") + struct.pack(">HH", len(numbers), 4) + numbers
    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\1\0MI"
    (tmp_path / "a.mat").write_bytes(header + struct.pack(">II", 14, len(parts)) + parts)
    assert read_arrays(tmp_path / "a.mat")["labels"].tolist() == [1, 258]


HEADER = b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM"


def _packed(content):
    data = zlib.compress(content)
    return struct.pack("<II", 15, len(data)) + data


BAD = {
    "another file": (b"\x89HDF\r\n" + 200 * b"\0", "versions 5 to 7"),
    "empty": (b"", "versions 5 to 7"),
    "cut short": (HEADER + struct.pack("<II", 14, 800), "ends too early"),
    "cut in a tag": (HEADER + b"\0\0\0", "damaged"),
    "not packed": (HEADER + struct.pack("<II", 15, 4) + b"word", "damaged"),
    "bomb": (HEADER + _packed(bytes(1 << 27)), "64 MiB"),
    "packed in itself": (HEADER + _packed(_packed(b"")), "compressed twice"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_such_file_is_named(tmp_path, name):
    content, message = BAD[name]
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.mat can't be read: .*{message}"):
        read_arrays(tmp_path / "a.mat")


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(128, 500), bits=st.integers(1, 255), packed=st.booleans(), cut=st.booleans())
def test_damage_anywhere_is_refused_or_changes_numbers_only(tmp_path, place, bits, packed, cut):
    """scipy's own reader crashes at some of these."""
    file = tmp_path / "a.mat"
    scipy.io.savemat(file, {"labels": np.arange(1, 40), "b": [1.5]}, do_compression=packed)
    content = bytearray(file.read_bytes())
    place %= len(content)
    content[place] ^= bits
    file.write_bytes(content[:place] if cut else content)
    with suppress(DataError):
        assert all(array.dtype.kind in "iuf" for array in read_arrays(file).values())
