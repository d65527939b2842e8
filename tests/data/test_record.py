"""The bytes of an image, wherever they lie."""

import tarfile
import zipfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from dmgan_fast.data.record import Record, read_bytes, where
from dmgan_fast.errors import DataError

CONTENT = b"an image"


def record(picture: Path, **place):
    return Record("key", picture, ("a bird",), 0, **place)


def test_an_image_is_read_from_a_file_an_archive_a_shard_and_a_table(tmp_path):
    (tmp_path / "a.jpg").write_bytes(CONTENT)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("in/a.jpg", CONTENT)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "a.jpg", "a.jpg")
    with tarfile.open(tmp_path / "a.tar") as archive:
        span = archive.getmember("a.jpg").offset_data, len(CONTENT)
    rows = [{"image": {"bytes": value}} for value in (b"first", b"second", CONTENT)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=2)
    places = {
        "a.jpg": {},
        "a.zip": {"member": "in/a.jpg"},
        "a.tar": {"member": "a.jpg", "span": span},
        "a.parquet": {"member": "image", "row": 2},
    }
    assert [read_bytes(record(tmp_path / name, **place)) for name, place in places.items()] == [CONTENT] * 4


def test_what_is_missing_or_cut_off_is_named_by_its_place(tmp_path):
    (tmp_path / "a.tar").write_bytes(CONTENT)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("b.jpg", CONTENT)
    rows = pyarrow.Table.from_pylist([{"image": 3}])
    pyarrow.parquet.write_table(rows, tmp_path / "a.parquet")
    for missing, message in (
        (record(tmp_path / "none.jpg"), "image not found"),
        (record(tmp_path / "a.zip", member="a.jpg"), "image not found"),
        (record(tmp_path / "a.parquet", member="image", row=9), "image not found"),
        (record(tmp_path / "a.tar", member="a.jpg", span=(4, 50)), "the archive ends in the middle of it"),
        (record(tmp_path / "a.parquet", member="image", row=0), "column image holds no image in this row"),
        (record(tmp_path), "image can't be read"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            read_bytes(missing)
        assert where(missing) in str(caught.value)
