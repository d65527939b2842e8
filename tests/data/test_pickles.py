"""Pickles are read without executing anything in them."""

import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest

from dmgan_fast.data import open_dataset
from dmgan_fast.data.pickles import read_pickle
from dmgan_fast.errors import DataError


class Call:
    """Pickles as a call of ``function``."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def hostile(target):
    return [
        Call(os.system, f"touch {target}"),
        Call(open, str(target), "w"),
        Call(eval, f"open({str(target)!r}, 'w')"),
        Call(np.fromfile, str(target)),
        {"a": [Call(os.mkdir, str(target))]},
    ]


@pytest.mark.parametrize("case", range(5))
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_hostile_pickle_is_refused_and_nothing_runs(tmp_path, case, protocol):
    target = tmp_path / "ran"
    (tmp_path / "x.pickle").write_bytes(pickle.dumps(hostile(target)[case], protocol=protocol))
    with pytest.raises(DataError, match=r"x\.pickle.*not allowed"):
        read_pickle(tmp_path / "x.pickle")
    assert not target.exists()


def test_hostile_pickle_in_a_data_set_is_a_data_error(cub):
    target = cub / "ran"
    (cub / "captions.pickle").write_bytes(pickle.dumps(hostile(target)[0]))
    with pytest.raises(DataError, match="captions"):
        open_dataset(cub)
    assert not target.exists()


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_plain_data_and_numpy_numbers_are_read(tmp_path, protocol):
    content = {
        "list": [1, 2.5, "café", b"raw", None, True, (1,), {2}],
        "dict": OrderedDict(a=1),
        "numbers": [np.int64(-7), np.float32(0.5), np.uint8(200), np.bool_(True)],
        "array": np.arange(5, dtype=np.int64),
        "names": np.array(["a", "b"], dtype=object),
    }
    (tmp_path / "x.pickle").write_bytes(pickle.dumps(content, protocol=protocol))
    read = read_pickle(tmp_path / "x.pickle")
    assert read["list"] == content["list"]
    assert read["dict"] == {"a": 1}
    assert read["numbers"] == [-7, 0.5, 200, True]
    assert read["array"] == [0, 1, 2, 3, 4]
    assert read["names"] == ["a", "b"]


def test_python_2_pickle_is_read(tmp_path):
    # pickle.dumps(['caf\xe9', numpy.int64(3)], 2) of Python 2.7 with numpy 1.16
    dtype = b"cnumpy\ndtype\n(U\x02i8K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    scalar = b"cnumpy.core.multiarray\nscalar\n(" + dtype
    raw = b"\x80\x02](U\x04caf\xe9" + scalar + b"U\x08\x03\x00\x00\x00\x00\x00\x00\x00tRe."
    (tmp_path / "x.pickle").write_bytes(raw)
    assert read_pickle(tmp_path / "x.pickle") == ["café", 3]


@pytest.mark.parametrize("raw", [b"", b"hello", b"\x80\x02](", b"\xff" * 50, pickle.dumps(list(range(99)))[:-20]])
def test_broken_pickle_names_the_file(tmp_path, raw):
    (tmp_path / "x.pickle").write_bytes(raw)
    with pytest.raises(DataError, match=r"x\.pickle"):
        read_pickle(tmp_path / "x.pickle")


def test_missing_pickle_names_the_file(tmp_path):
    with pytest.raises(DataError, match=r"not found.*x\.pickle"):
        read_pickle(tmp_path / "x.pickle")
