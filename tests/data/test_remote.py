"""Shards elsewhere: the same batches as from a folder, fetched once, checked, kept as far as there is room."""

from multiprocessing import get_context
from pathlib import Path

import fsspec
import pytest
import torch

from dmgan_fast.data import check_data, make_loader, open_dataset, shard
from dmgan_fast.data import remote as remote_files
from dmgan_fast.data.opening import read_set
from dmgan_fast.data.remote import FOLDER, SIZE, Remote, copies, local, names_below, use
from dmgan_fast.errors import DataError, InputError

SMALL = 4 << 10
SETTINGS = {"image_sizes": (8, 16), "max_words": 4}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Copies lie in a folder of the test; nobody waits before a second try."""
    monkeypatch.setenv(FOLDER, str(tmp_path / "copies"))
    monkeypatch.setattr(remote_files, "PAUSE", 0)
    yield tmp_path / "copies"
    system = fsspec.filesystem("memory")
    if system.exists("/remote-test"):
        system.rm("/remote-test", recursive=True)


@pytest.fixture
def sets(pictures, tmp_path):
    """The same shards in a folder, in memory, and at a file's address."""
    report = check_data(pictures)
    for out in (tmp_path / "here", "memory://remote-test/set", f"file://{tmp_path}/there"):
        shard(report, out, shard_bytes=SMALL, window=2)
    return str(tmp_path / "here"), "memory://remote-test/set", f"file://{tmp_path}/there"


def put(name, content):
    fsspec.filesystem("memory").pipe_file(f"/remote-test/{name}", content)
    return Remote(f"memory://remote-test/{name}", len(content))


def same(one, other):
    assert one.keys == other.keys
    return all(torch.equal(a, b) for a, b in zip([*one.images, *one[1:4]], [*other.images, *other[1:4]], strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_wherever_the_shards_lie_and_however_few_fit_here(sets, monkeypatch, workers):
    monkeypatch.setenv(SIZE, str(3 * (SMALL + 12_000)))
    batches = [
        list(make_loader(open_dataset(source, **SETTINGS), 3, seed=1, epoch=e, workers=workers))
        for source in sets
        for e in range(2)
    ]
    for there in (batches[2:4], batches[4:6]):
        for mine, theirs in zip(batches[:2], there, strict=True):
            assert len(mine) == len(theirs) == 2
            assert all(same(a, b) for a, b in zip(mine, theirs, strict=True))


def test_a_run_knows_shards_by_content_wherever_they_lie(sets):
    from dmgan_fast.training.identity import data_fingerprint

    assert len({data_fingerprint(open_dataset(source, **SETTINGS)) for source in sets}) == 1


def test_opening_fetches_no_archive_and_reading_fetches_each_once(sets, here, monkeypatch):
    fetched, original = [], remote_files._fetch
    monkeypatch.setattr(remote_files, "_fetch", lambda r, part: (fetched.append(r.url), original(r, part)))
    data = open_dataset(sets[1], **SETTINGS)
    assert (fetched, here.exists()) == ([], False)
    for _ in range(2):
        list(make_loader(data, 4))
    archives = {record.remote.url for record in data.records}
    assert sorted(fetched) == sorted(archives)
    assert len(archives) > 2


def test_the_shards_of_the_next_window_are_fetched_while_those_of_one_are_read(sets):
    data = open_dataset(sets[1], **SETTINGS)
    loader, asked = make_loader(data, 2, epoch=3, start_batch=1, endless=True), []
    loader.batches.soon = asked.append
    batches = iter(loader.batches)
    read, order = set(), []
    for _ in range(8):
        for visit in next(batches):
            shard_of = int(data.shards.of[visit.image])
            order.append(shard_of)
            read.add(shard_of)
            assert shard_of in {each for window in asked[:-1] for each in window}
    assert len(read) > 2


def test_a_copy_that_is_not_what_the_index_says_is_refused(sets, tmp_path):
    data = open_dataset(sets[2], **SETTINGS)
    for file in (tmp_path / "there").glob("*.tar"):
        content = bytearray(file.read_bytes())
        content[600] ^= 1
        file.write_bytes(content)
    with pytest.raises(DataError, match=r"file://.*\.tar can't be fetched, tried 4 times: its SHA-256 is another"):
        data[0]
    for file in (tmp_path / "there").glob("*.tar"):
        file.write_bytes(file.read_bytes()[:-512])
    with pytest.raises(DataError, match=r"bytes came, and .* were expected"):
        data[0]
    for file in (tmp_path / "there").glob("*.tar"):
        file.unlink()
    with pytest.raises(DataError, match=r"file://.*\.tar is not there"):
        data[0]
    assert [file.name for file in copies().iterdir() if file.suffix != ".lock"] == []


def test_a_connection_that_breaks_is_tried_again(sets, monkeypatch):
    left, original = [2], remote_files._fetch

    def breaking(remote, part):
        if left[0]:
            left[0] -= 1
            raise ConnectionResetError("gone")
        original(remote, part)

    monkeypatch.setattr(remote_files, "_fetch", breaking)
    data = open_dataset(sets[1], **SETTINGS)
    assert data[0].images[0].shape == (3, 8, 8)
    left[0] = 99
    monkeypatch.setenv(FOLDER, str(copies()) + "-other")
    with pytest.raises(DataError, match="tried 4 times: ConnectionResetError: gone"):
        data[0]


def test_the_copy_not_used_for_longest_makes_room_and_what_never_fits_is_refused(monkeypatch):
    import os

    remotes = [put(f"{number}.tar", bytes([number]) * 1000) for number in range(4)]
    monkeypatch.setenv(SIZE, "3000")
    for age, each in enumerate(remotes[:3]):
        os.utime(local(each), (1000 + age, 1000 + age))
    assert use(remotes[0], Path.read_bytes) == bytes(1000)  # used again, so that the second is the oldest
    local(remotes[3])
    assert [each.file.exists() for each in remotes] == [True, False, True, True]
    assert local(remotes[1]).read_bytes() == bytes([1]) * 1000
    monkeypatch.setenv(SIZE, "500")
    with pytest.raises(DataError, match=rf"takes 1 MiB, but copies in .* may take 1 MiB; set {SIZE} to more"):
        local(put("large.tar", bytes(1000)))
    monkeypatch.setenv(SIZE, "plenty")
    with pytest.raises(InputError, match=rf"{SIZE} must be a size as 200GiB, got 'plenty'"):
        local(put("another.tar", bytes(10)))


def fetch_all(remotes, failed):
    for each in remotes:
        if use(each, Path.read_bytes)[:1] != bytes([each.size % 256]):
            failed.set()


def test_several_processes_share_copies_though_there_is_room_for_one_only(monkeypatch):
    remotes = [put(f"{size}.tar", bytes([size % 256]) * size) for size in (1000, 1001, 1002)]
    monkeypatch.setenv(SIZE, "1500")
    fork = get_context("fork")
    failed = fork.Event()
    others = [fork.Process(target=fetch_all, args=(remotes[n:] + remotes[:n], failed)) for n in range(3)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert [other.exitcode for other in others] == [0] * 3
    assert not failed.is_set()


def test_archives_without_an_index_are_looked_into_and_a_single_one_will_do(sets):
    system = fsspec.filesystem("memory")
    expected = sorted(row.record.key for row in read_set(sets[0]).rows)
    system.rm_file("/remote-test/set/index.jsonl")
    found = read_set(sets[1])
    assert sorted(row.record.key for row in found.rows) == expected
    assert any("it has no index.jsonl" in note for note in found.notes)
    assert open_dataset(sets[1], **SETTINGS)[0].images[0].shape == (3, 8, 8)
    name = next(name for name in names_below(sets[1]) if name.startswith("train"))
    assert 0 < len(read_set(f"{sets[1]}/{name}").rows) < len(found.rows)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "memory://remote-test/nothing",
            r"no data set at 'memory://remote-test/nothing': neither index\.jsonl nor \*\.tar",
        ),
        ("nosuch://bucket/set", r"nosuch://bucket/set.* can't be opened: .*nosuch"),
    ],
)
def test_an_address_without_shards_says_what_is_needed(source, message):
    with pytest.raises(DataError, match=message):
        open_dataset(source)


def test_a_look_at_a_large_set_elsewhere_fetches_few_archives(sets, monkeypatch):
    monkeypatch.setattr("dmgan_fast.data.look.DECODED", 3000)
    fetched, original = [], remote_files._fetch
    monkeypatch.setattr(remote_files, "_fetch", lambda r, part: (fetched.append(r.url), original(r, part)))
    report = check_data(sets[1])
    assert report.errors == []
    assert 1 <= len(fetched) <= 2
