"""Checkpoints are written whole or not at all, and read for what they are."""

import errno

import pytest
import torch

from dmgan_fast.errors import CheckpointError
from dmgan_fast.runs import checkpoints
from dmgan_fast.runs.checkpoints import checkpoint_file, latest_checkpoint, load_checkpoint, save_checkpoint


def test_full_disk_leaves_the_old_checkpoint_intact(tmp_path, monkeypatch):
    old = checkpoint_file(tmp_path, 1)
    save_checkpoint(old, {"kind": "gan", "value": torch.ones(3)}, keep=1)
    bytes_before = old.read_bytes()

    def full(content, file):
        file.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints.torch, "save", full)
    for target in (old, checkpoint_file(tmp_path, 2)):
        with pytest.raises(CheckpointError, match=r"could not be written, older ones are intact.*No space left"):
            save_checkpoint(target, {"kind": "gan"}, keep=1)
    assert [file.name for file in tmp_path.iterdir()] == [old.name]
    assert old.read_bytes() == bytes_before


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    for step in (1, 2, 10):
        save_checkpoint(checkpoint_file(tmp_path, step), {"kind": "gan"}, keep=2)
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["step-00000002.pt", "step-00000010.pt"]
    assert latest_checkpoint(tmp_path).name == "step-00000010.pt"


def test_checkpoints_of_another_kind_or_content_are_refused(tmp_path):
    file = checkpoint_file(tmp_path, 1)
    save_checkpoint(file, {"kind": "damsm"}, keep=1)
    with pytest.raises(CheckpointError, match="expected a gan checkpoint of format 1, got damsm"):
        load_checkpoint(file, "gan")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        load_checkpoint(file, "damsm")
