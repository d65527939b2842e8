"""Captions from files and from standard input."""

import io
import json
import re
import sys

import pytest

FIRST, SECOND = "001-a-red-apple-128.png", "002-a-blue-car-128.png"
FILES = {
    "lines.txt": b"a red apple\na blue car\n",
    "windows.txt": b"\xef\xbb\xbfa red apple\r\n\r\n  a blue car",
    "old_mac.txt": b"a red apple\ra blue car\r",
    "rows.jsonl": b'{"caption": "a red apple", "id": 3}\n\n{"captions": ["a blue car"]}\n',
    "strings.jsonl": b'"a red apple"\n"a blue car"\n',
    "rows_by_content.txt": b'{"text": "a red apple"}\n{"text": "a blue car"}\n',
    "list.json": json.dumps(["a red apple", {"caption": "a blue car"}], indent=1).encode(),
}


@pytest.mark.parametrize("name", FILES)
def test_captions_come_from_files_of_lines_and_of_json(sample, tmp_path, name):
    (tmp_path / name).write_bytes(FILES[name])
    status, written, errors = sample("--captions", tmp_path / name)
    assert status == 0, errors
    assert [each for each in written if each.endswith("-128.png")] == [FIRST, SECOND]


@pytest.mark.parametrize("arguments", [("-",), ("--captions", "-")])
def test_captions_come_from_standard_input(sample, monkeypatch, arguments):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(FILES["lines.txt"])))
    _, written, _ = sample(*arguments)
    assert [each for each in written if each.endswith("-128.png")] == [FIRST, SECOND]


def test_a_file_draws_what_the_same_captions_draw_as_arguments(sample, tmp_path):
    (tmp_path / "c.txt").write_bytes(FILES["lines.txt"])
    sample("--captions", tmp_path / "c.txt")
    before = (tmp_path / "out" / SECOND).read_bytes()
    sample("a red apple", "a blue car")
    assert (tmp_path / "out" / SECOND).read_bytes() == before


BAD = {
    "unknown.txt": (b"a red apple\n\nzzz\n", r"unknown\.txt:3: 'zzz' has no word that the model knows"),
    "empty.txt": (b"\n \n", r"no captions in .*empty\.txt; give them, --captions FILE"),
    "latin.txt": ("a café".encode("latin1"), r"latin\.txt is not UTF-8 text \(byte 5\)"),
    "bytes.txt": (b"a\0b", r"bytes\.txt is not text"),
    "broken.jsonl": (b'{"caption": "a car"}\n{"caption": \n', r"broken\.jsonl:2 is not JSON"),
    "keys.jsonl": (b'{"caption": "a car"}\n{"title": "a car"}\n', r"keys\.jsonl:2 must be a caption.*'title'"),
    "deep.txt": (b'{"caption": "a car"}\n' + 100_000 * b"[", r"deep\.txt:2 is not JSON"),
    "deep.json": (100_000 * b"[", r"deep\.json is not JSON"),
    "blank.jsonl": (b'{"captions": ["a car", " "]}\n', r"blank\.jsonl:1 must be a caption"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_caption_files_are_named_with_their_line_and_nothing_is_drawn(sample, tmp_path, name):
    content, message = BAD[name]
    (tmp_path / name).write_bytes(content)
    status, written, errors = sample("--captions", tmp_path / name)
    assert (status, written) == (2, [])
    assert re.search(message, errors), errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_caption_file_that_is_not_there_is_named(sample, tmp_path):
    status, _, errors = sample("--captions", tmp_path / "none.txt")
    assert status == 2
    assert "none.txt can't be read: No such file" in errors
