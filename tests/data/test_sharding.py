"""A set written as shards is the same set: images, captions, classes, splits, boxes and words, here or elsewhere."""

import hashlib
import json
import tarfile

import fsspec
import pytest

from dmgan_fast.data import check_data, open_dataset, shard
from dmgan_fast.data.layouts.shard_index import INDEX
from dmgan_fast.data.opening import read_set
from dmgan_fast.data.record import read_bytes
from dmgan_fast.errors import DataError, InputError
from tests.data.miniature import write_picture

SMALL = 4 << 10  # bytes of an archive: a few images


def contents(source):
    """What training sees of a set, in no order."""
    found = read_set(source)
    return sorted(
        (
            hashlib.sha256(read_bytes(row.record)).hexdigest(),
            row.record.captions,
            row.record.box,
            row.record.upright,
            role,
            None if row.own_class else row.record.class_id,
        )
        for row, role in zip(found.rows, found.roles, strict=True)
    )


@pytest.fixture
def address():
    """A place in fsspec's memory."""
    system = fsspec.filesystem("memory")
    yield "memory://shards-test/set"
    system.rm("/shards-test", recursive=True) if system.exists("/shards-test") else None


def test_a_set_in_shards_is_the_same_set(pictures, tmp_path):
    out = tmp_path / "out"
    count, shards, left_out = shard(check_data(pictures), out, shard_bytes=SMALL)
    files = sorted(file.name for file in out.iterdir())
    assert files == [INDEX, *sorted(name for name in files if name.endswith(".tar"))]
    assert (count, len(files) - 1, left_out) == (12, shards, [])
    assert {name.split("-")[0] for name in files[1:]} == {"train", "test"}
    assert contents(out) == contents(pictures)


@pytest.mark.parametrize("with_index", [True, False])
def test_boxes_words_and_pixels_as_stored_go_along_with_an_index_and_without(cub, tmp_path, with_index):
    before, words = contents(cub), open_dataset(cub).vocabulary
    shard(check_data(cub), tmp_path / "out")
    if not with_index:
        (tmp_path / "out" / INDEX).unlink()
    assert contents(tmp_path / "out") == before
    assert any(row[2] for row in before)
    assert open_dataset(tmp_path / "out").vocabulary.fingerprint == words.fingerprint


def test_other_readers_of_webdataset_find_images_and_captions_beside_each_other(pictures, tmp_path):
    shard(check_data(pictures), tmp_path / "out", shard_bytes=SMALL)
    found = []
    for file in sorted((tmp_path / "out").glob("*.tar")):
        with tarfile.open(file) as archive:
            names = archive.getnames()
            assert [name.partition(".")[2] for name in names] == ["json", "jpg"] * (len(names) // 2)
            for said, image in zip(names[::2], names[1::2], strict=True):
                assert said.partition(".")[0] == image.partition(".")[0]
                found.append(json.loads(archive.extractfile(said).read())["captions"][0])
    assert len(found) == len(set(found)) == 12


def test_archives_are_as_large_as_asked_for_and_the_same_bytes_every_time(pictures, tmp_path):
    report = check_data(pictures)
    for name in ("one", "other"):
        shard(report, tmp_path / name, shard_bytes=SMALL)
    shard(report, tmp_path / "mixed", shard_bytes=SMALL, seed=1)
    files = {name: {f.name: f.read_bytes() for f in (tmp_path / name).iterdir()} for name in ("one", "other", "mixed")}
    assert files["one"] == files["other"] != files["mixed"]
    sizes = [len(content) for name, content in files["one"].items() if name.endswith(".tar")]
    assert len(sizes) > 3
    ends = 2 * tarfile.BLOCKSIZE + tarfile.RECORDSIZE  # a tar ends with zeros up to a whole record
    assert all(size <= SMALL + ends for size in sizes)


def test_what_can_not_be_used_is_refused_by_name_or_left_out_and_nothing_is_half_written(pictures, tmp_path):
    (pictures / "p3.jpg").write_bytes(b"broken")
    report = check_data(pictures)
    with pytest.raises(DataError, match=r"p3\.jpg.*skip_bad"):
        shard(report, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    count, _, left_out = shard(report, tmp_path / "out", skip_bad=1)
    assert (count, [item.name for item in left_out]) == (11, ["p3.jpg"])
    with pytest.raises(InputError, match="is there already and not empty"):
        shard(report, tmp_path / "out", skip_bad=1)
    for options, message in (({"shard_bytes": 10}, "shard_bytes must be"), ({"window": 0}, "window must be 1")):
        with pytest.raises(InputError, match=message):
            shard(report, tmp_path / "new", **options)


def test_an_image_that_vanishes_while_shards_are_written_leaves_nothing(pictures, tmp_path, address):
    report = check_data(pictures)
    (pictures / "p5.jpg").unlink()
    for out in (tmp_path / "out", address):
        with pytest.raises(DataError, match=r"not found: .*p5\.jpg"):
            shard(report, out, shard_bytes=SMALL)
    assert not (tmp_path / "out").exists()
    assert fsspec.filesystem("memory").find("/shards-test") == []


def test_shards_at_an_address_are_those_of_a_folder_and_the_index_comes_last(pictures, tmp_path, address, monkeypatch):
    report, given = check_data(pictures), []
    system = fsspec.filesystem("memory")
    original = type(system).put_file
    monkeypatch.setattr(type(system), "put_file", lambda self, a, b, **k: (given.append(b), original(self, a, b, **k)))
    assert shard(report, address, shard_bytes=SMALL) == shard(report, tmp_path / "out", shard_bytes=SMALL)
    for file in (tmp_path / "out").iterdir():
        assert system.cat_file(f"/shards-test/set/{file.name}") == file.read_bytes()
    assert given[-1].endswith(INDEX)
    with pytest.raises(InputError, match=r"memory://shards-test/set is there already and not empty"):
        shard(report, address)


def test_an_index_of_other_archives_is_not_used_and_said_to_be(pictures, tmp_path):
    out = tmp_path / "out"
    shard(check_data(pictures), out, shard_bytes=SMALL)
    before = contents(out)
    with tarfile.open(out / "train-000099.tar", "w") as archive:
        write_picture(tmp_path / "new.jpg", size=(33, 44))
        (tmp_path / "new.txt").write_text("a new one")
        for name in ("new.jpg", "new.txt"):
            archive.add(tmp_path / name, name)
    found = read_set(out)
    assert any("does not know these archives: train-000099.tar" in note for note in found.notes)
    assert len(contents(out)) == len(before) + 1
    (out / "train-000099.tar").unlink()
    (out / "test-000000.tar").unlink()
    faults = [row.fault for row in read_set(out).rows if row.fault]
    assert faults
    assert all(fault.kind == "missing image" and "test-000000.tar" in fault.why for fault in faults)
