"""Processes agree: if one fails, differs or is gone, every one is told what and where."""

import os

import pytest
import torch

from dmgan_fast.devices import pick_device
from dmgan_fast.errors import InputError, ProcessError
from dmgan_fast.parallel import Processes, expected, rows_of
from tests.parallel.conftest import SIZE


def agreed(of_three, name):
    return [found["agree"][name] for found in of_three[0]]


@pytest.mark.parametrize(("total", "size"), [(7, 1), (7, 2), (7, 3), (4, 3), (12, 4), (3, 3)])
def test_rows_are_shared_in_order_and_as_equally_as_can_be(total, size):
    parts = [rows_of(total, rank, size) for rank in range(size)]
    assert [row for part in parts for row in part] == list(range(total))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_numbers_and_what_the_first_has_reach_all(of_three):
    for found in of_three[0]:
        assert found["exchange"]["numbers"].tolist() == [[rank, 7] for rank in range(SIZE)]
    assert agreed(of_three, "from first") == [0] * SIZE
    assert agreed(of_three, "any") == [(True, False)] * SIZE


@pytest.mark.parametrize("name", ["one fails", "one fails, quick"])
def test_what_fails_on_one_process_fails_on_all_with_its_message(of_three, name):
    first, failed, last = agreed(of_three, name)
    assert failed == ("InputError", "no such folder", False)
    for kind, message, _ in (first, last):
        assert kind == "ProcessError"
        assert message.startswith("process 1 of 3 stopped, on ")
        assert message.endswith(": no such folder")
    assert [each[2] for each in (first, failed, last)] == [False, False, True]  # told by the first and by itself


def test_a_bug_on_one_process_is_raised_there_and_named_elsewhere(of_three):
    first, failed, last = agreed(of_three, "one has a bug")
    assert failed[:2] == ("ZeroDivisionError", "by zero")
    assert all(each[0] == "ProcessError" and "ZeroDivisionError: by zero" in each[1] for each in (first, last))


def test_nothing_is_raised_where_all_agree(of_three):
    assert agreed(of_three, "all well") == agreed(of_three, "same") == [None] * SIZE


def test_what_differs_is_named_on_all_processes(of_three):
    wanted = "the data must be the same on all processes: xyz on process 0, abc on process 1"
    assert {each[:2] for each in agreed(of_three, "not the same")} == {("ProcessError", wanted)}


def test_a_reader_that_fails_on_one_process_ends_all_after_the_same_batch(of_three):
    assert agreed(of_three, "seen") == [[1]] * SIZE
    first, second, failed = agreed(of_three, "loader fails")
    assert failed[:2] == ("DataError", "picture 7 can't be read")
    assert all("process 2 of 3 stopped" in each[1] and "picture 7" in each[1] for each in (first, second))


def test_processes_end_with_the_one_that_has_least(of_three):
    assert agreed(of_three, "shortest") == [[0, 1]] * SIZE


def test_a_batch_that_does_not_fit_together_is_refused_on_all_processes(of_three):
    assert {each[:2] for each in agreed(of_three, "no rows")} == {
        ("InputError", "every process needs a part of the batch, the processes have [2, 0, 2] rows")
    }
    assert {each[:2] for each in agreed(of_three, "words")} == {
        ("InputError", "the words T must be the same on all processes, which have [4, 4, 5]")
    }


def test_a_process_that_is_gone_is_reported_as_such(of_three):
    *others, gone = (found["lost"] for found in of_three[0])
    assert gone is None
    for rank, (kind, message, _) in enumerate(others):
        assert kind == "ProcessError"
        assert message.startswith(f"process {rank} of 3 could not exchange with the others: one of them has ended")


def test_alone_nothing_is_exchanged(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with Processes.joined() as processes:
        assert (processes.rank, processes.size, processes.group, processes.first) == (0, 1, None, True)
        assert expected() == 1
        assert processes.objects("x") == ["x"]
        assert processes.share(3) is None
        assert list(processes.side_by_side([1, 2])) == [1, 2]
        with pytest.raises(ZeroDivisionError), processes.agreeing():
            raise ZeroDivisionError


@pytest.mark.parametrize("missing", ["RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_a_launcher_that_sets_too_little_is_told_what_is_missing(monkeypatch, missing):
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(missing)
    with pytest.raises(InputError, match=rf"WORLD_SIZE=2 .* {missing} is not set; start them with torchrun"):
        Processes.joined().__enter__()


def test_processes_that_do_not_come_are_named_with_their_meeting_place(monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ProcessError, match=r"process 1 of 2 could not meet the others at 127\.0\.0\.1:9"):
        Processes.joined(timeout=1).__enter__()


def test_each_process_of_a_machine_takes_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda:1")
    assert pick_device("cuda:0") == torch.device("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(InputError, match="process 3 of a machine with 2 GPUs; start 2 there"):
        pick_device("auto")
    assert os.environ["LOCAL_RANK"] == "2"
