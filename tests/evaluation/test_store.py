"""Chunks of features: whole or not there, and never another store's."""

import errno

import pytest
import torch

from dmgan_fast.errors import CheckpointError
from dmgan_fast.evaluation import store as stores
from dmgan_fast.evaluation.store import FeatureStore, cache_folder, chunks_of


def test_chunks_cover_all_rows_once(monkeypatch):
    monkeypatch.setattr(stores, "CHUNK", 10)
    assert chunks_of(25) == [range(0, 10), range(10, 20), range(20, 25)]
    assert chunks_of(10) == [range(0, 10)]


def test_rows_come_back_as_written(tmp_path):
    store, rows = FeatureStore(tmp_path, "key"), range(10, 14)
    assert not store.has(rows)
    written = {"features": torch.randn(4, 3), "logits": torch.randn(3, 4).t()}
    store.write(rows, written)
    assert store.has(rows)
    assert all(torch.equal(FeatureStore(tmp_path, "key").read(rows, name), written[name]) for name in written)
    assert not FeatureStore(tmp_path, "another key").has(rows)


def test_a_full_disk_leaves_no_chunk(tmp_path, monkeypatch):
    def full(tensors, file, metadata):
        file.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(stores, "save_file", full)
    store = FeatureStore(tmp_path, "key")
    with pytest.raises(OSError, match="No space"):
        store.write(range(2), {"features": torch.ones(2, 1)})
    assert not store.has(range(2))
    assert not list(store.folder.iterdir())


def test_damaged_and_foreign_chunks_are_refused(tmp_path):
    store = FeatureStore(tmp_path, "key")
    store.write(range(2), {"features": torch.ones(2, 1)})
    (file,) = store.folder.iterdir()
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(CheckpointError, match=r"can't be read.*delete it and evaluate again"):
        store.read(range(2), "features")
    other = FeatureStore(tmp_path, "other")
    other.write(range(2), {"features": torch.ones(2, 1)})
    file.write_bytes(next(other.folder.iterdir()).read_bytes())
    with pytest.raises(CheckpointError, match="does not hold what its name says"):
        store.read(range(2), "features")


def test_the_cache_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "dmgan_fast" / "features"
