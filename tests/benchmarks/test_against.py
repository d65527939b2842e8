"""This tree against another: whom it asks, what counts as the same, and what a row says."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks import against
from benchmarks.against import ROOT, Asked, are_same, on_same_cores, rows_of, table_of, take_rounds, tree_of
from dmgan_fast.errors import InputError


def git(folder, *arguments):
    names = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *names, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path):
    """A repository of a package with two commits, of which the second changes Python alone, and a built library."""
    folder = tmp_path / "checkout"
    for name, text in (
        ("csrc/a.cpp", "1"),
        ("dmgan_fast/a.py", "old"),
        ("setup.py", "raise SystemExit('no compiler')"),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    (folder / "dmgan_fast/a.py").write_text("new")
    git(folder, "commit", "-qam", "second")
    (folder / "dmgan_fast/_cpu.abi3.so").write_text("built")
    return folder


def test_a_commit_with_the_same_native_source_takes_the_libraries_and_leaves_nothing_behind(checkout):
    with tree_of("HEAD~1", checkout) as tree:
        assert (tree / "dmgan_fast/a.py").read_text() == "old"
        assert (tree / "dmgan_fast/_cpu.abi3.so").read_text() == "built"
    assert not tree.exists()
    listed = subprocess.run(["git", "worktree", "list"], cwd=checkout, capture_output=True, text=True, check=True)
    assert len(listed.stdout.splitlines()) == 1


def test_a_commit_with_other_native_source_is_built_and_says_why_it_can_not_be(checkout, capsys):
    (checkout / "csrc/a.cpp").write_text("2")
    with pytest.raises(InputError, match=r"--against HEAD: its native libraries do not build:\nno compiler"):
        tree_of("HEAD", checkout).__enter__()
    assert "building the native libraries of HEAD" in capsys.readouterr().err


def test_an_unknown_commit_is_refused_by_name(checkout):
    with pytest.raises(InputError, match=r"--against nobody: .*nobody"):
        tree_of("nobody", checkout).__enter__()


def test_numbers_are_the_same_under_the_same_names_up_to_rounding():
    assert are_same({"a": 1.0, "b": 0.0}, {"a": 1.0001, "b": 1e-9})
    assert not are_same({"a": 1.0}, {"a": 1.01})
    assert not are_same({"a": 1.0}, {"a": 1.0, "b": 1.0})
    assert not are_same({"a": float("nan")}, {"a": float("nan")})


def test_trees_take_turns_in_both_orders_after_an_answer_that_is_not_timed():
    asked = []

    def of(name, milliseconds):
        return lambda case: asked.append(name) or (milliseconds, {"loss": 1.0})

    assert take_rounds("case", of("now", 2.0), of("before", 4.0), 2) == ([2.0, 2.0], [4.0, 4.0])
    assert asked == ["now", "before", "before", "now", "now", "before"]


def test_trees_that_find_other_numbers_are_not_timed():
    assert take_rounds("case", lambda case: (1.0, {"loss": 1.0}), lambda case: (1.0, {"loss": 1.1}), 2) is None


def test_every_case_is_answered_and_has_a_ratio(monkeypatch):
    parts = {"import": ("dmgan_fast",), "calls": against.CALLS, "step": ("narrow step",)}
    monkeypatch.setattr(against, "PARTS", parts)
    monkeypatch.setattr(against, "_import", lambda tree, name: (1.0, {}))
    rows = rows_of(ROOT, list(parts), rounds=2, pairs=1)
    assert [row["case"] for row in rows[::2]] == [case for cases in parts.values() for case in cases]
    assert all(row["correct"] and row["median_ms"] > 0 for row in rows)
    assert all(row["p20_ratio"] <= row["median_ratio"] <= row["p80_ratio"] for row in rows[1::2])
    assert len(table_of(rows).lines) == len(rows) / 2


def test_a_ratio_is_this_tree_over_the_other():
    before, now = against._rows("calls", "conv3x3", [([1.0, 1.1], [2.0, 2.2])])
    assert (before["median_ms"], now["median_ms"], now["median_ratio"]) == (2.1, 1.05, 0.5)


def test_what_was_not_timed_says_so():
    rows = against._rows("calls", "conv3x3", [([1.0], [2.0]), None])
    assert not any(row["correct"] for row in rows)
    assert table_of(rows).lines == [["calls", "conv3x3", "other numbers: not timed"]]


def test_a_process_that_ends_is_an_error_that_names_its_folder(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('broken')")
    with Asked(tmp_path) as asked, pytest.raises(InputError, match=f"the process in {tmp_path} has ended in 'conv3x3'"):
        asked("conv3x3")


def test_an_import_is_that_of_the_folder(tmp_path):
    (tmp_path / "torch.py").touch()
    (tmp_path / "dmgan_fast.py").write_text("from time import process_time\nwhile process_time() < 0.5: pass")
    assert against._import(tmp_path, "dmgan_fast")[0] > 100  # less what Python itself takes to start


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores can be chosen on Linux alone")
def test_processes_share_as_many_cores_as_each_has_threads():
    before = os.sched_getaffinity(0)
    with on_same_cores(1):
        code = "import os, json; print(json.dumps(list(os.sched_getaffinity(0))))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [min(before)]
    assert os.sched_getaffinity(0) == before
