"""One folder, one writer, and a lock goes when its holder does."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dmgan_fast.errors import InputError
from dmgan_fast.training.damsm import pretrain
from dmgan_fast.training.locks import only_writer
from dmgan_fast.training.trainer import train
from tests.training.conftest import pretrain_config, train_config

HOLD = """
import sys, time
from pathlib import Path
from dmgan_fast.training.locks import only_writer
with only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock on a folder of a run."""
    folder = tmp_path / "run"
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield folder, process
    process.kill()
    process.wait()


@pytest.mark.parametrize("size", ["2", "16"])
def test_several_processes_without_a_meeting_place_are_refused_before_anything_is_written(
    pictures, encoders, tmp_path, monkeypatch, size
):
    """Each would train alone, into one folder."""
    monkeypatch.setenv("WORLD_SIZE", size)
    monkeypatch.setenv("RANK", "1")
    for work, config in ((train, train_config(pictures, encoders)), (pretrain, pretrain_config(pictures))):
        with pytest.raises(InputError, match=rf"WORLD_SIZE={size} .* MASTER_ADDR, MASTER_PORT are not set.*torchrun"):
            work(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_process_under_torchrun_trains(pictures, encoders, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    train(train_config(pictures, encoders, steps=1), tmp_path / "run")
    assert (tmp_path / "run" / "weights").is_dir()


def test_a_folder_that_another_process_writes_is_refused_and_free_once_it_is_killed(pictures, encoders, holder):
    folder, process = holder
    with pytest.raises(InputError, match=rf"is being written by process {process.pid} on .*give another --out"):
        train(train_config(pictures, encoders, steps=1), folder)
    assert [path.name for path in folder.iterdir()] == [".lock"]
    process.send_signal(signal.SIGKILL)
    process.wait()
    train(train_config(pictures, encoders, steps=1), folder)
    assert not (folder / ".lock").exists()
    assert len((folder / "metrics.csv").read_text().splitlines()) == 2


def test_a_lock_leaves_nothing_behind_where_nothing_was_written(tmp_path):
    with pytest.raises(ZeroDivisionError), only_writer(tmp_path / "a" / "b"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "kept").mkdir()
    with only_writer(tmp_path / "kept"):
        assert f"process {os.getpid()}" in (tmp_path / "kept" / ".lock").read_text()
        with pytest.raises(InputError, match="is being written"), only_writer(tmp_path / "kept"):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_folder_that_can_not_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/run can't be written"), only_writer(Path(tmp_path / "file" / "run")):
        pass
