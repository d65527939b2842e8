"""Checkpoints are written whole or not at all, read for what they are, and never lost to a damaged one."""

import errno
import os
import resource
import signal
import threading
import time

import pytest
import torch

from dmgan_fast.errors import CheckpointError, DamagedCheckpointError
from dmgan_fast.runs import checkpoints
from dmgan_fast.runs.checkpoints import (
    Checkpoints,
    checkpoint_file,
    find_checkpoint,
    latest_checkpoint,
    load_checkpoint,
    newest_whole,
    save_checkpoint,
    steps_of,
)


def state(step, size=1000):
    return {"kind": "gan", "step": step, "value": torch.full((size,), float(step))}


@pytest.fixture
def three(tmp_path):
    """Checkpoints of the steps 1, 2 and 3."""
    for step in (1, 2, 3):
        save_checkpoint(checkpoint_file(tmp_path, step), state(step), keep=9)
    return tmp_path


def flip(file, share=0.5):
    """Change one bit."""
    content = bytearray(file.read_bytes())
    content[int(len(content) * share)] ^= 1
    file.write_bytes(content)


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
    assert sorted(file.name for file in tmp_path.iterdir()) == ["manifest.json", old.name]
    assert old.read_bytes() == bytes_before


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    for step in (1, 2, 10):
        save_checkpoint(checkpoint_file(tmp_path, step), {"kind": "gan"}, keep=2)
    kept = ["manifest.json", "step-00000002.pt", "step-00000010.pt"]
    assert [file.name for file in sorted(tmp_path.iterdir())] == kept
    assert latest_checkpoint(tmp_path).name == "step-00000010.pt"


def test_checkpoints_of_another_kind_or_content_are_refused(tmp_path):
    file = checkpoint_file(tmp_path, 1)
    save_checkpoint(file, {"kind": "damsm"}, keep=1)
    with pytest.raises(CheckpointError, match="expected a gan checkpoint of format 1, got damsm"):
        load_checkpoint(file, "gan")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        load_checkpoint(file, "damsm")


# ---------------------------------------------------------------------------------------- what is damaged, falls back


@pytest.mark.parametrize("harm", ["flipped", "cut short", "emptied", "gone"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before_and_says_so(three, caplog, harm):
    newest = checkpoint_file(three, 3)
    if harm == "flipped":
        flip(newest)
    elif harm == "gone":
        newest.unlink()
    else:
        newest.write_bytes(newest.read_bytes()[: 700 if harm == "cut short" else 0])
    file, found = Checkpoints(three).load("gan")
    assert (file, found["step"]) == (checkpoint_file(three, 2), 2)
    assert torch.equal(found["value"], state(2)["value"])
    assert "going on from step 2" in caplog.text
    assert "step-00000003.pt" in caplog.text
    assert steps_of(three) == [1, 2]
    assert newest.with_name("step-00000003.pt.damaged").exists() == (harm != "gone")


@pytest.mark.parametrize("share", [0.1, 0.4, 0.6, 0.9, 0.999])
@pytest.mark.parametrize("manifest", [True, False], ids=["with manifest", "of an older version"])
def test_a_flipped_bit_anywhere_is_found_or_changes_nothing(tmp_path, manifest, share):
    file = checkpoint_file(tmp_path, 1)
    save_checkpoint(file, state(1, 5000), keep=1)
    if not manifest:
        (tmp_path / "manifest.json").unlink()
    flip(file, share)
    try:
        found = load_checkpoint(file, "gan")
    except DamagedCheckpointError:
        return
    assert not manifest  # padding in the archive, of which PyTorch keeps no checksum
    assert torch.equal(found["value"], state(1, 5000)["value"])


def test_several_damaged_ones_are_all_named_and_all_damaged_is_an_error_that_moves_nothing(three, caplog):
    for step in (2, 3):
        flip(checkpoint_file(three, step))
    whole, damaged = newest_whole(three)
    assert (whole, len(damaged)) == (checkpoint_file(three, 1), 2)
    flip(checkpoint_file(three, 1))
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* can be read: .*00003\.pt.*00002\.pt.*00001\.pt"):
        Checkpoints(three).load("gan")
    assert steps_of(three) == [1, 2, 3]


def test_a_checkpoint_that_the_manifest_does_not_name_yet_is_used(three):
    """The process was killed between the two."""
    (three / "manifest.json").write_text((three / "manifest.json").read_text().replace("00003", "00009"))
    assert Checkpoints(three).load("gan")[1]["step"] == 3
    (three / "manifest.json").write_text("{ half")
    assert Checkpoints(three).load("gan")[1]["step"] == 3


def test_a_step_that_is_saved_again_is_not_taken_for_damaged_if_the_process_dies_before_the_manifest(
    three, monkeypatch
):
    monkeypatch.setattr(checkpoints, "_record", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(checkpoint_file(three, 3), state(3, 7), keep=9)
    assert len(load_checkpoint(checkpoint_file(three, 3))["value"]) == 7


def test_another_kind_is_no_damage_and_nothing_is_set_aside(three):
    with pytest.raises(CheckpointError, match="expected a damsm checkpoint"):
        Checkpoints(three).load("damsm")
    assert steps_of(three) == [1, 2, 3]


def test_what_can_not_be_read_now_is_an_error_and_not_given_up(three, monkeypatch):
    def denied(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(checkpoints, "damage", denied)
    with pytest.raises(CheckpointError, match="can't be read: Permission denied"):
        Checkpoints(three).load("gan")
    assert steps_of(three) == [1, 2, 3]


# ------------------------------------------------------------------------------------------------- in the background


def test_what_is_saved_in_the_background_has_the_bits_of_its_step(tmp_path, monkeypatch):
    """Writing waits until training has changed everything."""
    go, original = threading.Event(), checkpoints.torch.save

    def slow(content, file):
        assert go.wait(30)
        original(content, file)

    monkeypatch.setattr(checkpoints.torch, "save", slow)
    values = {"kind": "gan", "step": 1, "nested": {"x": torch.ones(4), "list": [torch.ones(2), {"n": 1}]}}
    with Checkpoints(tmp_path) as saving:
        saving.save(values)
        values["nested"]["x"].zero_()
        values["nested"]["list"][0].zero_()
        values["nested"]["list"][1]["n"] = 2
        assert steps_of(tmp_path) == []
        go.set()
    found = load_checkpoint(checkpoint_file(tmp_path, 1))["nested"]
    assert torch.equal(found["x"], torch.ones(4))
    assert torch.equal(found["list"][0], torch.ones(2))
    assert found["list"][1]["n"] == 1


@pytest.mark.parametrize("background", [True, False])
def test_one_checkpoint_is_written_at_a_time_and_what_follows_comes_after_it(tmp_path, monkeypatch, background):
    now, most, order = [], [], []
    original = checkpoints.torch.save

    def watched(content, file):
        now.append(content["step"])
        most.append(len(now))
        original(content, file)
        now.pop()

    monkeypatch.setattr(checkpoints.torch, "save", watched)
    with Checkpoints(tmp_path, keep=9, background=background) as saving:
        for step in range(5):
            saving.save(state(step), then=lambda step=step: order.append((step, steps_of(tmp_path))))
    assert most == [1] * 5
    assert order == [(step, list(range(step + 1))) for step in range(5)]


def full_disk(content, file):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_what_fails_in_the_background_is_raised_by_the_next_save_by_waiting_and_at_the_end(tmp_path, monkeypatch):
    def save_and_leave(**options):
        with Checkpoints(tmp_path) as saving:
            saving.save(state(4), **options)

    def denied():
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "weights"))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.torch, "save", full_disk)
        saving = Checkpoints(tmp_path)
        saving.save(state(1))
        with pytest.raises(CheckpointError, match=r"step-00000001\.pt could not be written.*No space left"):
            saving.save(state(2))
        saving.save(state(3))
        with pytest.raises(CheckpointError, match=r"step-00000003\.pt could not be written"):
            saving.wait()
        with pytest.raises(CheckpointError, match=r"step-00000004\.pt could not be written"):
            save_and_leave()
    assert steps_of(tmp_path) == []
    with pytest.raises(CheckpointError, match=r"PermissionError: .*weights"):
        save_and_leave(then=denied)
    assert steps_of(tmp_path) == [4]


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="signals of POSIX")
def test_an_error_of_a_signal_while_waiting_for_the_writing_stays_what_it_is(tmp_path, monkeypatch):
    main, ready, original = threading.get_ident(), threading.Event(), checkpoints.torch.save

    def slow(content, file):
        ready.wait(10)
        signal.pthread_kill(main, signal.SIGUSR1)  # as PyTorch hears that a process that reads data was killed
        time.sleep(0.2)
        original(content, file)

    def worker_ended(*_):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    def wait():
        ready.set()
        saving.wait()

    before = signal.signal(signal.SIGUSR1, worker_ended)
    try:
        monkeypatch.setattr(checkpoints.torch, "save", slow)
        saving = Checkpoints(tmp_path)
        saving.save(state(1))
        with pytest.raises(RuntimeError, match="DataLoader worker"):
            wait()
    finally:
        signal.signal(signal.SIGUSR1, before)
    saving.wait()
    assert steps_of(tmp_path) == [1], "what was being written is waited for all the same"


def test_an_error_of_the_training_is_not_hidden_by_one_of_the_writing(tmp_path, monkeypatch, caplog):
    def train():
        with Checkpoints(tmp_path) as saving:
            saving.save(state(1))
            raise ZeroDivisionError

    monkeypatch.setattr(checkpoints.torch, "save", full_disk)
    with pytest.raises(ZeroDivisionError):
        train()
    assert "No space left" in caplog.text


def test_the_best_is_kept_beside_the_newest_until_another_is_better(tmp_path):
    with Checkpoints(tmp_path, keep=2) as saving:
        for step in range(1, 9):
            saving.best = {2: 2, 7: 7}.get(step, saving.best)
            saving.save(state(step))
            saving.wait()
            best = [2] if 2 <= step < 7 else []
            assert steps_of(tmp_path) == sorted({*best, *range(max(1, step - 1), step + 1)})


# ------------------------------------------------------------------------------------------------ disks and leftovers


def test_a_disk_that_fills_while_writing_keeps_the_old_and_says_what_is_needed(tmp_path):
    """The system's own limit of a file's size fails in the middle of a write, as a full disk does."""
    save_checkpoint(checkpoint_file(tmp_path, 1), state(1), keep=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(CheckpointError, match=r"older ones are intact: .*; it takes 8 MiB, .* are free there"):
            save_checkpoint(checkpoint_file(tmp_path, 2), state(2, 1 << 21), keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["manifest.json", "step-00000001.pt"]
    assert load_checkpoint(checkpoint_file(tmp_path, 1))["step"] == 1


def test_too_little_space_is_refused_before_anything_is_copied_or_written(three, monkeypatch):
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda _: _Usage)
    monkeypatch.setattr(checkpoints, "snapshot", None)
    before = sorted(file.name for file in three.iterdir())
    with pytest.raises(CheckpointError, match=r"No space left on device; it takes 4 MiB, 3 MiB are free there"):
        Checkpoints(three, keep=1).save(state(4, 1 << 20))
    assert sorted(file.name for file in three.iterdir()) == before


class _Usage:
    free = 3 << 20


def test_what_a_killed_process_left_half_written_is_removed(three):
    (three / ".step-00000004.pt.abc.pt").write_bytes(b"half")
    (three / ".step-00000004.partial").mkdir()
    (three / ".step-00000004.partial" / "shard").write_bytes(b"half")
    assert steps_of(three) == [1, 2, 3]
    with Checkpoints(three):
        pass
    assert [file.name for file in three.iterdir() if file.name.startswith(".")] == []


def test_a_folder_that_can_not_be_written_is_refused_before_training(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"can't be written to .*file/checkpoints"):
        Checkpoints(tmp_path / "file" / "checkpoints").__enter__()

    def read_only(**_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(checkpoints.tempfile, "TemporaryFile", read_only)
    with pytest.raises(CheckpointError, match=r"can't be written to .*: Read-only file system"):
        Checkpoints(tmp_path / "checkpoints").__enter__()


def test_file_and_folder_are_on_the_disk_before_the_manifest_names_them(tmp_path, monkeypatch):
    events, fsync, replace = [], os.fsync, os.replace

    def watch_fsync(descriptor):
        events.append(("fsync", os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))))
        fsync(descriptor)

    def watch_replace(source, target):
        events.append(("rename", os.path.basename(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watch_fsync)
    monkeypatch.setattr(os, "replace", watch_replace)
    folder = tmp_path / "checkpoints"
    save_checkpoint(checkpoint_file(folder, 1), state(1), keep=1)
    names = [(what, "temporary" if name.startswith(".") else name) for what, name in events]
    for file in ("step-00000001.pt", "manifest.json"):
        assert names[:3] == [("fsync", "temporary"), ("rename", file), ("fsync", "checkpoints")]
        del names[:3]


def test_the_checkpoint_of_a_step_is_found_by_its_number(three):
    assert find_checkpoint(three, 2) == checkpoint_file(three, 2)
    assert find_checkpoint(three, 4) is None
    assert find_checkpoint(three / "nowhere", 1) is None
