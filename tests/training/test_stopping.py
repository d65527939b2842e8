"""A scheduler's signal saves and ends a run with the status that asks to be queued again; so does a signal to all."""

import os
import signal

import pytest

from dmgan_fast import cli
from dmgan_fast.data.dataset import CaptionedImages
from dmgan_fast.errors import DataError, Interrupted, Preempted
from dmgan_fast.training.stopping import stop_on_signals, told_of_readers
from dmgan_fast.training.trainer import GANTask, train
from tests.cli.calls import call
from tests.training.conftest import train_config
from tests.training.test_engine import checkpoint, same


@pytest.fixture
def signalled(monkeypatch):
    """``signalled(*signals)``: what a run gets in its second step."""

    def choose(*signals):
        step = GANTask.step

        def press(task, batch, epoch):
            losses = step(task, batch, epoch)
            task.count = getattr(task, "count", 0) + 1
            for number in signals if task.count == 2 else ():
                signal.raise_signal(number)
            return losses

        monkeypatch.setattr(GANTask, "step", press)

    return choose


@pytest.mark.parametrize("numbers", [(signal.SIGTERM,), (signal.SIGUSR1, signal.SIGTERM)])
def test_a_schedulers_signal_saves_and_resume_goes_on_with_the_same_bits(
    pictures, encoders, tmp_path, signalled, monkeypatch, numbers
):
    before = [signal.getsignal(number) for number in numbers]
    signalled(*numbers)
    with pytest.raises(Preempted, match=rf"stopped at step 2 by {numbers[0].name}; the state is saved, --resume"):
        train(train_config(pictures, encoders), tmp_path / "stopped")
    assert [signal.getsignal(number) for number in numbers] == before
    monkeypatch.undo()
    train(train_config(pictures, encoders), tmp_path / "stopped", resume=True)
    train(train_config(pictures, encoders), tmp_path / "whole")
    same(checkpoint(tmp_path / "whole")["task"], checkpoint(tmp_path / "stopped")["task"])


def test_ctrl_c_after_a_schedulers_signal_stops_at_once():
    with stop_on_signals() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop
        signal.raise_signal(signal.SIGTERM)
        assert isinstance(stop.error(3), Preempted)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with stop_on_signals() as stop:
        signal.raise_signal(signal.SIGINT)
        assert type(stop.error(3)) is Interrupted


def test_the_command_ends_with_the_status_that_asks_to_be_queued_again(monkeypatch, capsys, tmp_path):
    def stopped(config, out, *, resume):
        raise Preempted("stopped at step 2 by SIGTERM; the state is saved, --resume continues it")

    monkeypatch.setattr("dmgan_fast.training.damsm.pretrain", stopped)
    status, _, errors = call(monkeypatch, capsys, "pretrain", "--out", tmp_path, "--preset", "demo")
    assert status == cli.EXIT_REQUEUE == 75
    assert errors == "dmgan-fast: stopped at step 2 by SIGTERM; the state is saved, --resume continues it\n"


def _fail_in_workers(monkeypatch, fail):
    """``fail(epoch)`` runs where an image is read, in the processes that read only."""
    main, read = os.getpid(), CaptionedImages.visit

    def visit(dataset, epoch, index):
        if os.getpid() != main:
            fail(dataset)
        return read(dataset, epoch, index)

    monkeypatch.setattr(CaptionedImages, "visit", visit)


def test_a_process_that_reads_and_is_killed_ends_the_run_with_what_to_do(pictures, encoders, tmp_path, monkeypatch):
    _fail_in_workers(monkeypatch, lambda dataset: os.kill(os.getpid(), signal.SIGKILL))
    config = train_config(pictures, encoders, ["data.workers=1"])
    with pytest.raises(DataError, match=r"that reads data ended \(DataLoader worker.*data\.workers=1.*--resume"):
        train(config, tmp_path)


def test_a_signal_to_all_processes_leaves_those_that_read_at_work(pictures, encoders, tmp_path, monkeypatch):
    def to_all(dataset):
        for process in (os.getpid(), os.getppid()):
            os.kill(process, signal.SIGTERM)

    _fail_in_workers(monkeypatch, to_all)
    config = train_config(pictures, encoders, ["data.workers=1"])
    with pytest.raises(Preempted, match=r"stopped at step 1 by SIGTERM; the state is saved"):
        train(config, tmp_path)
    monkeypatch.undo()
    train(config, tmp_path, resume=True)


def _ended_by(stop, text):
    with told_of_readers(stop):
        raise RuntimeError(text)


def test_a_process_that_reads_and_ends_after_a_signal_asks_to_be_queued_again():
    ended = "DataLoader worker (pid 3) is killed by signal: Terminated. "
    with stop_on_signals() as stop:
        with pytest.raises(DataError, match=r"that reads data ended \(DataLoader worker \(pid 3\)"):
            _ended_by(stop, ended)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Preempted, match=r"stopped by SIGTERM, which also ended.*--resume goes on from the last"):
            _ended_by(stop, ended)
        with pytest.raises(RuntimeError, match="of something else"):
            _ended_by(stop, "of something else")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_vanished_is_named_in_one_line(pictures, encoders, tmp_path, monkeypatch, workers):
    def vanish(dataset, epoch, index):
        raise DataError("image not found: a/b.png")

    monkeypatch.setattr(CaptionedImages, "visit", vanish)
    with pytest.raises(DataError) as caught:
        train(train_config(pictures, encoders, [f"data.workers={workers}"]), tmp_path)
    assert str(caught.value) == "image not found: a/b.png"
