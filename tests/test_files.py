"""Files and folders are replaced whole or not at all; JSON is read with one kind of error."""

import os
import shutil

import pytest

from dmgan_fast.files import clear_up, load_json, parse_json, replace_file, replace_folder, sync, sync_below, write_text


def test_a_file_is_the_new_one_only_after_the_end_and_has_usual_permissions(tmp_path):
    target = tmp_path / "new" / "a.txt"
    with replace_file(target) as temporary:
        temporary.write_text("new")
        assert temporary.suffix == target.suffix
        assert not target.exists()
    assert target.read_text() == "new"
    assert os.listdir(target.parent) == ["a.txt"]
    (tmp_path / "usual").touch()
    assert target.stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")

    def write():
        with replace_file(target) as temporary:
            temporary.write_text("half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_text_is_written_as_utf_8_or_not_at_all(tmp_path):
    target = tmp_path / "file.txt"
    write_text(target, "a bird, ein Vogel, \N{BIRD}")
    assert target.read_bytes().decode("utf-8") == "a bird, ein Vogel, \N{BIRD}"
    with pytest.raises(UnicodeEncodeError):
        write_text(target, "\ud800")
    assert target.read_bytes().startswith(b"a bird")
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_takes_the_place_of_the_old_one_whole(tmp_path):
    target = tmp_path / "weights"
    target.mkdir()
    (target / "old").touch()
    with replace_folder(target) as temporary:
        (temporary / "new").touch()
        assert os.listdir(target) == ["old"]
    assert os.listdir(target) == ["new"]
    assert os.listdir(tmp_path) == ["weights"]


@pytest.mark.parametrize("step", ["while it is filled", "while it takes its place"])
def test_a_failure_leaves_the_old_folder_and_nothing_else(tmp_path, monkeypatch, step):
    target = tmp_path / "weights"
    target.mkdir()
    (target / "old").touch()
    replace = os.replace

    def fail(source, destination):
        if str(destination) == str(target) and not str(source).endswith(".old"):
            raise OSError("full")
        replace(source, destination)

    def write():
        with replace_folder(target) as temporary:
            (temporary / "new").touch()
            if step == "while it is filled":
                raise OSError("full")
            monkeypatch.setattr(os, "replace", fail)

    with pytest.raises(OSError, match="full"):
        write()
    assert os.listdir(target) == ["old"]
    assert os.listdir(tmp_path) == ["weights"]


@pytest.mark.parametrize("durable", [True, False])
def test_the_content_is_on_the_disk_before_the_name_and_the_name_on_return_if_asked_for(tmp_path, monkeypatch, durable):
    events, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append(os.path.isdir(f"/proc/self/fd/{fd}")), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda *names: (events.append("rename"), replace(*names)))
    with replace_file(tmp_path / "a", durable=durable) as temporary:
        temporary.write_text("text")
    assert events == [False, "rename", True][: 3 if durable else 2]


def test_everything_in_a_folder_is_synced_and_folders_that_can_not_be_are_passed_over(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    for name in ("a", "sub/b"):
        (tmp_path / name).write_text(name)
    seen = []
    monkeypatch.setattr(os, "fsync", lambda fd: seen.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))))
    sync_below(tmp_path)
    assert sorted(seen) == sorted(["a", "b", "sub", tmp_path.name])

    def unable(descriptor):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", unable)
    sync(tmp_path)
    with pytest.raises(OSError, match="Invalid argument"):
        sync(tmp_path / "a")


def test_what_a_killed_process_left_half_done_is_cleared_up_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", lambda *_: os._exit(9))  # killed before the new one takes its place
    for function, target in ((replace_file, "a.json"), (replace_folder, "best")):
        if os.fork() == 0:
            with function(tmp_path / target) as temporary:
                (temporary / "x" if temporary.is_dir() else temporary).write_text("half")
            os._exit(1)
        os.wait()
    monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == 2
    for name in (".lock", ".a.json", ".notes.txt", "a.json", ".b.abcdefgh.json"):
        (tmp_path / name).write_text("whole")
    clear_up(tmp_path, tmp_path / "absent")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".a.json", ".b.abcdefgh.json", ".lock", ".notes.txt", "a.json",
    ]  # fmt: skip


def test_a_folder_that_was_being_replaced_is_put_back(tmp_path):
    old = tmp_path / ".best.abcd1234.old"
    old.mkdir()
    (old / "x").write_text("old")
    clear_up(tmp_path)
    assert (tmp_path / "best" / "x").read_text() == "old"
    shutil.copytree(tmp_path / "best", old)
    clear_up(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_json_is_read_from_texts_bytes_and_files(tmp_path):
    write_text(tmp_path / "a.json", '{"é": [1]}')
    assert load_json(tmp_path / "a.json") == parse_json('{"é": [1]}') == parse_json('{"é": [1]}'.encode()) == {"é": [1]}


@pytest.mark.parametrize(("text", "why"), [("[" * 99999, "nested too deeply"), ("{", "Expecting"), (b"\xff", "utf-8")])
def test_what_is_no_json_is_a_value_error(text, why):
    with pytest.raises(ValueError, match=why):
        parse_json(text)
