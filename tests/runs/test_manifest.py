"""The manifest says of each file what was written, and nothing in it can do harm."""

import hashlib
import json

import pytest
import torch

from dmgan_fast.files import FileDigest, file_digest
from dmgan_fast.runs.manifest import damage, named, read_manifest, write_manifest


@pytest.fixture
def folder(tmp_path):
    """Two files, one of them in a checkpoint of its own folder, and their manifest."""
    (tmp_path / "step-00000002").mkdir()
    for name in ("step-00000001.pt", "step-00000002/shard", "step-00000002/rest"):
        (tmp_path / name).write_bytes(name.encode() * 1000)
    names = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    write_manifest(tmp_path, {name: file_digest(tmp_path / name) for name in names})
    return tmp_path


def test_entries_are_sizes_and_sha256(folder):
    content = (folder / "step-00000001.pt").read_bytes()
    written = json.loads((folder / "manifest.json").read_text())["files"]["step-00000001.pt"]
    assert written == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert read_manifest(folder)["step-00000001.pt"] == FileDigest(**written)
    assert sorted(named(read_manifest(folder), folder / "step-00000002")) == [
        "step-00000002/rest",
        "step-00000002/shard",
    ]


def test_any_change_of_any_file_is_damage_and_says_which(folder):
    for checkpoint in ("step-00000001.pt", "step-00000002"):
        assert damage(folder / checkpoint) is None
    shard = folder / "step-00000002" / "shard"
    content = shard.read_bytes()
    shard.write_bytes(b"x" + content[1:])
    assert "step-00000002/shard is not what was written" in damage(folder / "step-00000002")
    shard.write_bytes(content[:-1])
    assert f"has {len(content) - 1:,} bytes, but {len(content):,} were written" in damage(folder / "step-00000002")
    shard.unlink()
    assert damage(folder / "step-00000002") == "step-00000002/shard is missing"
    assert damage(folder / "step-00000001.pt") is None


def test_entries_of_files_that_are_gone_are_dropped(folder):
    (folder / "step-00000001.pt").unlink()
    write_manifest(folder, read_manifest(folder))
    assert sorted(read_manifest(folder)) == ["step-00000002/rest", "step-00000002/shard"]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"files": []}', '{"files": {"a": 1}}', '{"files": {"a": {"bytes": "x"}}}', "[" * 9999],
)
def test_a_manifest_that_makes_no_sense_is_none(folder, text):
    (folder / "manifest.json").write_text(text)
    assert read_manifest(folder) == {}


def test_an_archive_that_counts_too_many_disks_is_damaged(tmp_path):
    """``zipfile.is_zipfile`` raises there, where it says no of other damage."""
    file = tmp_path / "step-00000001.pt"
    torch.save({"x": torch.zeros(3)}, file)
    assert damage(file) is None
    content = bytearray(file.read_bytes())
    content[content.rindex(b"PK\x06\x07") + 16] = 9
    file.write_bytes(content)
    assert damage(file) == "its archive is broken: zipfiles that span multiple disks are not supported"
