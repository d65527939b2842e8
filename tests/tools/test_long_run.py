"""The verdict of a long run: what grows after warm-up is found, what grew before is not held against it."""

import json

import pytest

from tools import long_run


def rows(memory, files=10.0):
    return [
        {"seconds": float(k), "memory": m, "files": files, "threads": 3.0, "steps": k, "rounds": 0}
        for k, m in enumerate(memory)
    ]


def watch_of(memory):
    watch = long_run.Watch(1, 1)
    for row in rows(memory):
        watch.add(row)
    return watch


@pytest.mark.parametrize(
    ("memory", "flat"),
    [
        ([1.0 * k for k in range(1, 31)] + [100.0] * 60, True),  # warms up
        ([100.0] * 30 + [100.0 + 0.1 * k for k in range(60)], False),  # leaks
        ([100.0 + k % 2 for k in range(90)], True),  # breathes
    ],
)
def test_what_grows_after_warming_up_is_found(tmp_path, memory, flat):
    assert long_run.write(watch_of(memory), tmp_path)["flat"] is flat
    assert json.loads((tmp_path / "long_run.json").read_text())["flat"] is flat
    assert (tmp_path / "long_run.svg").read_text().startswith("<svg")
    assert len((tmp_path / "long_run.csv").read_text().splitlines()) == 91


def test_a_look_finds_what_this_process_opens(tmp_path):
    before = long_run.look()
    with open(tmp_path / "a", "w"), open(tmp_path / "b", "w"):
        assert long_run.look()["files"] == before["files"] + 2
    assert long_run.look()["files"] == before["files"]
