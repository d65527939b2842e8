"""Rows of JSONL, CSV and parquet files, with their numbers."""

import pytest

from dmgan_fast.data.tables import csv_table, json_lines, parquet_table, read_json, short
from dmgan_fast.errors import DataError


def test_lines_keep_their_numbers_and_broken_ones_say_why(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"a": 1}\n\n{"a": \n[2]\n', encoding="utf-8-sig")
    (first, row), (second, broken), (third, other) = json_lines(file)
    assert (first, row, second, third) == (1, {"a": 1}, 3, 4)
    assert broken.startswith("not JSON: ")
    assert other == "expected an object, got [2]"


def test_one_json_list_is_read_as_rows(tmp_path):
    (tmp_path / "rows.json").write_text('[{"a": 1},\n 3]')
    assert list(json_lines(tmp_path / "rows.json")) == [(1, {"a": 1}), (2, "expected an object, got 3")]


@pytest.mark.parametrize("divider", [",", ";", "\t"])
def test_tables_are_divided_as_their_header_is(tmp_path, divider):
    file = tmp_path / "rows.csv"
    file.write_text(f"image{divider} caption\r\n" + f'a.jpg{divider}"two\r\nlines"\r\nb.jpg{divider}one')
    columns, rows = csv_table(file)
    assert columns == ["image", "caption"]
    assert rows == [
        (3, {"image": "a.jpg", "caption": "two\r\nlines"}),
        (4, {"image": "b.jpg", "caption": "one"}),
    ]


def test_files_that_can_not_be_read_are_named(tmp_path):
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 cut off")
    for read, name in ((read_json, "a.json"), (parquet_table, "a.parquet"), (csv_table, "none.csv")):
        with pytest.raises(DataError, match=name):
            read(tmp_path / name)


def test_long_values_are_cut_in_messages():
    assert short("bird") == "'bird'"
    assert short("x" * 500) == "'" + "x" * 199 + "..."
