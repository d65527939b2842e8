"""Files and folders are replaced whole or not at all."""

import os
import stat

import pytest

from dmgan_fast.files import replace_file, replace_folder, sync, sync_below


def test_a_file_is_replaced_on_success_and_left_alone_on_failure(tmp_path):
    file = tmp_path / "new" / "a.txt"
    with replace_file(file) as temporary:
        temporary.write_text("first")
        assert not file.exists()
    assert file.read_text() == "first"

    def fail():
        with replace_file(file) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert file.read_text() == "first"
    assert list(file.parent.iterdir()) == [file]


def test_a_folder_is_replaced_whole_and_left_alone_on_failure(tmp_path):
    folder = tmp_path / "a"

    def fill(text, error=None):
        with replace_folder(folder) as temporary:
            (temporary / text).write_text(text)
            if error:
                raise error

    fill("first")
    fill("second")
    with pytest.raises(ZeroDivisionError):
        fill("third", ZeroDivisionError())
    assert [path.name for path in folder.iterdir()] == ["second"]
    assert list(tmp_path.iterdir()) == [folder]


def test_replaced_files_have_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    with replace_file(tmp_path / "replaced") as temporary:
        temporary.write_text("")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "replaced")}
    assert len(modes) == 1


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
