"""The index of shards is read as it was written, and what is odd in it is refused by its line."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmgan_fast.data.layouts.shard_index import Index, Sample, read_index, write_index
from dmgan_fast.errors import DataError
from dmgan_fast.files import FileDigest

SAMPLE = Sample("train-000000.tar", "000000001", "000000001.jpg", 1024, 77, {"captions": ["a bird"], "class_id": 3})
INDEX = Index({"train-000000.tar": FileDigest(2048, "ab" * 32)}, 16, (SAMPLE,))


def text_of(head=None, line=None):
    lines = [json.loads(each) for each in write_index(INDEX).splitlines()]
    return "\n".join(
        json.dumps(each | (changes or {})) for each, changes in zip(lines, (head, line), strict=True)
    ).encode()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.text(), st.lists(st.text(), min_size=1)), max_size=5))
def test_an_index_comes_back_as_it_was_written(said):
    samples = tuple(SAMPLE._replace(key=key, values={"captions": captions}) for key, captions in said)
    index = INDEX._replace(samples=samples)
    content = write_index(index).encode("utf-8", "surrogatepass")
    assert read_index(content, "index.jsonl") == index


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"index:1: not JSON"),
        (b"[1]", r"index:1: not a line of an index"),
        (b"{}", r"format None is not known"),
        (text_of(head={"format": 2}), r"format 2 is not known"),
        (text_of(head={"shards": [1]}), r"index:1: not the head"),
        (text_of(head={"shards": {"../out.tar": {"bytes": 1, "sha256": ""}}}), r"'\.\./out\.tar' does not lie below"),
        (text_of(head={"shards": {"/out.tar": {"bytes": 1, "sha256": ""}}}), r"'/out\.tar' does not lie below"),
        (text_of(head={"samples": 2}), r"cut off: it has 1 of 2 images"),
        (text_of(head={"window": "x"}), r"index:1: not the head"),
        (text_of(line={"offset": -1}), r"index:2: not a line.*got -1"),
        (text_of(line={"size": 1.5}), r"index:2: not a line.*got 1\.5"),
        (text_of(line={"shard": "other.tar"}), r"index:2: 'other\.tar' is none of its archives"),
        (text_of() + b"\n{ half", r"index:3: not JSON"),
        (b"[" * 99999, r"index:1: not JSON"),
    ],
)
def test_what_is_odd_is_named(content, message):
    with pytest.raises(DataError, match=message):
        read_index(content, "index")


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=300))
def test_anything_else_is_refused(content):
    with pytest.raises(DataError):
        read_index(content, "index")
