"""``benchmarks.card``: all of its logic on a CPU, and what becomes of stages and tools that fail."""

import itertools
import json
import os
import signal
import stat
import sys
import time
import zipfile
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path

import pytest
import torch

from benchmarks import card, precision
from benchmarks.gpu import cases, checks, clock, summary, tools
from benchmarks.gpu.stages import Options, Skipped, Stage, rows_of, run_all
from benchmarks.harness import Case
from dmgan_fast.errors import DMGANError


@pytest.fixture(autouse=True)
def precision_as_before():
    before, deterministic = [each.fp32_precision for each in precision.PRODUCTS], torch.backends.cudnn.deterministic
    yield
    torch.backends.cudnn.deterministic = deterministic
    for products, kind in zip(precision.PRODUCTS, before, strict=True):
        products.fp32_precision = kind


def options_in(folder):
    return Options(folder, device="cpu", tiny=True, workers=2, seconds=60.0)


def journal(options, *rows):
    options.journal.write_text("".join(json.dumps(row) + "\n" for row in rows))


# --------------------------------------------------------------------------------------------------------- the command


def command(monkeypatch, *arguments):
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))  # put back afterwards
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["benchmarks.card", *map(str, arguments)])
    card.main()


def test_all_stages_run_on_a_cpu_and_are_told(tmp_path, monkeypatch, capfd):
    # Skipped, whatever this machine has: tests of their own run them.
    monkeypatch.setenv("PATH", str(tmp_path / "no-tools") + os.pathsep + "/usr/bin:/bin")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "no-tools"))
    out = tmp_path / "out"
    command(monkeypatch, "--out", out, "--device", "cpu", "--tiny", "--minutes", 30, "-n", 2)
    rows = rows_of(out / "card.jsonl")
    statuses = {row["stage"]: row["status"] for row in rows if "status" in row}
    done = dict.fromkeys(("environment", "check", "steps", "ops", "memory", "training"), "done")
    assert statuses == done | {"sanitizer": "skipped", "profiler": "skipped"}
    checked = {(row["op"], row["precision"]) for row in rows if row["stage"] == "check" and row.get("correct")}
    assert checked >= {(op, precision) for op in cases.OPS for precision in ("fp32", "bf16")}
    ours = [row for row in rows if row.get("implementation") == "dmgan_fast"]
    assert all(row["correct"] for row in ours)
    assert all(row["same_bits"] for row in ours if row["stage"] == "check")
    assert {row["stage"] for row in ours if row.get("median_ms")} == {"steps", "ops"}
    (memory,) = [row for row in rows if row["stage"] == "memory" and "status" not in row]
    assert min(memory["measured_bytes"], memory["predicted_bytes"]) > 0
    trained = {row["case"]: row for row in rows if row["stage"] == "training" and "case" in row}
    assert min(trained["encoders"]["steps"], trained["gan"]["steps"]) >= 1
    assert trained["gan"]["precision"] == "bf16"
    assert trained["images"] == {"stage": "training", "case": "images", "count": 8, "finite": True}
    assert (out / "images.png").read_bytes().startswith(b"\x89PNG")
    assert {file.name for file in out.iterdir()} == {"card.jsonl", "card.md", "card.log", "images.png"}
    page = (out / "card.md").read_text()
    for title, _ in (summary.SECTIONS[name] for name in done if name != "environment"):
        assert f"## {title}" in page
    assert "## Wrong" not in page
    told = capfd.readouterr().out
    assert "training: done" in told
    with pytest.raises(SystemExit):
        command(monkeypatch, "--out", out, "--device", "cpu", "--tiny")
    assert "holds results already" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--only", "check,stpes"), "--only: no stage stpes; there are environment, check"),
        (("--minutes", "0"), "must be more than 0"),
        (("--wheels", "."), "holds no file that ends in .whl"),
    ],
)
def test_bad_arguments_are_named_before_anything_runs(tmp_path, monkeypatch, capfd, arguments, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as status:
        command(monkeypatch, "--out", tmp_path / "out", "--device", "cpu", *arguments)
    assert status.value.code == 2
    assert said in capfd.readouterr().err
    assert not (tmp_path / "out" / "card.jsonl").exists()


def test_a_package_that_is_missing_is_taken_from_a_wheel(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(card, "NEEDED", ("torch", "a_small_package"))
    monkeypatch.setattr(card, "run", lambda *arguments: print("runs", os.environ["PYTHONPATH"]))
    with pytest.raises(SystemExit):
        command(monkeypatch, "--out", tmp_path / "one")
    assert "this Python lacks a_small_package: put their wheels into a folder" in capfd.readouterr().err
    with zipfile.ZipFile(tmp_path / "a_small_package-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("a_small_package/__init__.py", "")
    command(monkeypatch, "--out", tmp_path / "two", "--wheels", tmp_path)
    site = capfd.readouterr().out.removeprefix("runs ").split(os.pathsep)[0]
    assert site.endswith("/site"), "the processes of stages find it too"
    assert not Path(site).exists()
    assert list((tmp_path / "two").iterdir()) == [], "nothing is left among the results"
    (tmp_path / "b-1-py3-none-any.whl").write_text("no archive")
    with pytest.raises(SystemExit):
        command(monkeypatch, "--out", tmp_path / "three", "--wheels", tmp_path)
    assert "b-1-py3-none-any.whl is not a wheel" in capfd.readouterr().err


def test_packages_that_are_there_but_cannot_be_imported_end_the_first_stage(tmp_path, monkeypatch):
    """A wheel without what it needs itself: minutes later, a stage would find out."""
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("one", "other"):
        (tmp_path / f"broken_{name}.py").write_text(f"import what_{name}_needs")
    needed = ("torch", "broken_one", "broken_other")
    with pytest.raises(DMGANError) as told:
        next(checks.environment(replace(options_in(tmp_path), needed=needed)))
    for name in ("one", "other"):
        assert f"broken_{name} can't be imported: ModuleNotFoundError: No module named 'what_{name}_needs'" in str(
            told.value
        )


# -------------------------------------------------------------------------------------------------------------- stages


def ended(process):
    """Whether it is gone, or waits to be collected, within a while: signals take their time."""
    state = Path(f"/proc/{process}/stat")
    for _ in range(200):
        try:
            if state.read_text().rpartition(")")[2].split()[0] in "ZX":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


def test_stages_that_hang_crash_or_fail_are_told_and_the_rest_goes_on(tmp_path, capfd):
    names = ("fine", "hangs", "crashes", "leaves", "fails", "skips")
    shares = dict.fromkeys(names, 1.0) | {"hangs": 0.04}
    stages = [Stage(name, f"stages_to_run:{name}", shares[name]) for name in names] + [
        Stage("absent", "stages_to_run:absent", 1.0),
        Stage("last", "stages_to_run:fine", 1.0),
    ]
    results = run_all(stages, options_in(tmp_path), 600.0)
    assert {row["stage"]: row["status"] for row in results} == {
        "fine": "done",
        "hangs": "cut off",
        "crashes": "crashed",
        "leaves": "crashed",
        "fails": "failed",
        "skips": "skipped",
        "absent": "failed",
        "last": "done",
    }
    why = {row["stage"]: row.get("why", "") for row in results}
    assert why["crashes"] == "ended by SIGSEGV"
    assert why["leaves"] == "left with status 3"
    assert why["fails"] == "ValueError: said why"
    assert why["skips"] == "nothing to run it with"
    rows = rows_of(tmp_path / "card.jsonl")
    assert [row["case"] for row in rows if "case" in row] == [
        "fine",
        "before it hangs",
        "before it crashes",
        "before it leaves",
        "before it fails",
        "fine",
    ], "what they found before is kept"
    (child,) = [row["child"] for row in rows if "child" in row]
    assert ended(child), "also what it started is stopped"
    assert [row for row in rows if "status" in row] == results
    first, last = (row["seconds_allowed"] for row in rows if row.get("case") == "fine")
    assert last > first, "time that was left is shared among those after"
    assert "Traceback" in (tmp_path / "card.log").read_text()


def test_where_the_machine_can_not_be_told_nothing_else_runs(tmp_path, capfd):
    stages = [Stage("environment", "stages_to_run:fails", 1.0), Stage("last", "stages_to_run:fine", 1.0)]
    assert [row["stage"] for row in run_all(stages, options_in(tmp_path), 600.0)] == ["environment"]


def test_a_stage_may_take_its_least_seconds_if_there_are_so_many(tmp_path, capfd):
    stages = [Stage("one", "stages_to_run:fine", 1.0, least=100.0), Stage("two", "stages_to_run:fine", 999.0)]
    for there, allowed in ((600.0, 100.0), (50.0, 50.0)):
        run_all(stages, options_in(tmp_path), there)
        row = [row for row in rows_of(tmp_path / "card.jsonl") if row["stage"] == "one" and "case" in row][-1]
        assert row["seconds_allowed"] == pytest.approx(allowed, abs=0.5)


def test_stages_take_ctrl_c_also_where_the_command_was_started_in_the_background(tmp_path, capfd):
    forkserver._forkserver._stop()  # the next one inherits what is set here
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        (result,) = run_all([Stage("one", "stages_to_run:interrupts_itself", 1.0)], options_in(tmp_path), 600.0)
    finally:
        signal.signal(signal.SIGINT, before)
    assert result["status"] == "done"
    assert rows_of(tmp_path / "card.jsonl")[0]["case"] == "interrupted"


def test_what_was_found_is_told_where_the_command_is_stopped(tmp_path, capfd):
    """As by a limit around it: SIGTERM, which the command makes an exception of."""
    told = []
    stages = [Stage("fine", "stages_to_run:fine", 0.5), Stage("hangs", "stages_to_run:hangs", 0.5)]

    def stop(number, frame):
        raise SystemExit

    before = signal.signal(signal.SIGALRM, stop)

    def tell():
        told.append([row["stage"] for row in rows_of(tmp_path / "card.jsonl") if "status" in row])
        signal.setitimer(signal.ITIMER_REAL, 0 if len(told) > 1 else 3)

    with pytest.raises(SystemExit):
        run_all(stages, options_in(tmp_path), 600.0, after_each=tell)
    signal.signal(signal.SIGALRM, before)
    assert told == [["fine"], ["fine", "hangs"]]
    rows = rows_of(tmp_path / "card.jsonl")
    assert rows[-1]["why"] == "stopped"
    (child,) = [row["child"] for row in rows if "child" in row]
    assert ended(child)


# ------------------------------------------------------------------------------------------------------- checks, clocks


def wrong_case(target, **settings):
    calls = itertools.count()
    implementations = {
        "authors": lambda x: x.sin() + 0.1,
        "dmgan_fast": lambda x: x.sin() * 1.01,
        "dmgan_fast, cuda": lambda x: x.sin() * (1 + 1e-6 * next(calls)),
        "dmgan_fast, triton": lambda x: torch.empty(2).view(3) * x,
    }
    return Case("toy", "c", target.place({"x": torch.randn(64, 3)}), {}, (), lambda x: x.sin(), implementations)


def test_wrong_results_and_other_bits_are_found(monkeypatch):
    monkeypatch.setitem(cases.OPS, "toy", wrong_case)
    threads = torch.get_num_threads()
    rows = {row["implementation"]: row for row in checks.check_cell("toy", {}, "fp32", "cpu")}
    torch.set_num_threads(threads)
    assert {name: row["correct"] for name, row in rows.items()} == {
        "authors": False,
        "dmgan_fast": False,
        "dmgan_fast, cuda": True,
        "dmgan_fast, triton": False,
    }
    assert rows["dmgan_fast"]["same_bits"]
    assert not rows["dmgan_fast, cuda"]["same_bits"]
    assert "RuntimeError" in rows["dmgan_fast, triton"]["failed"]
    assert [summary.is_wrong(row) for row in rows.values()] == [False, True, True, True], "rivals are only told"


def test_a_backend_that_is_not_there_is_told_and_not_wrong():
    row = cases.told(cases.BackendError("the native cuda library is not built"))
    assert row == {"unavailable": "the native cuda library is not built"}
    assert not summary.is_wrong({"implementation": "dmgan_fast, cuda"} | row)


def test_inputs_are_more_than_twice_the_cache(monkeypatch):
    class Card:
        L2_cache_size = 50 << 20

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Card)
    for nbytes in (1 << 22, 10 << 20, 300 << 20):
        assert clock.sets_beyond_cache(nbytes, "cuda") * nbytes >= 2 * Card.L2_cache_size
    assert clock.sets_beyond_cache(1, "cuda") == clock.MOST_SETS


# --------------------------------------------------------------------------------------------------------------- tools

CSV = """==PROF== Connected to process 1
==PROF== Profiling "fill": 0%....100%
"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"
"0","void batch_norm<float>(int)","gpu__time_duration.sum","ns","2,000"
"0","void batch_norm<float>(int)","sm__throughput.avg.pct_of_peak_sustained_elapsed","%","12.5"
"1","void batch_norm<float>(int)","gpu__time_duration.sum","us","3"
"1","void batch_norm<float>(int)","gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed","%","80"
"2","_read_kernel","gpu__time_duration.sum","ns","2500"
"2","_read_kernel","launch__grid_size","","7"
"""


def install(folder, monkeypatch, name, script):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod((folder / name).stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_the_sanitizer_must_find_the_planted_fault(tmp_path, monkeypatch):
    install(tmp_path / "bin", monkeypatch, "compute-sanitizer", "exit 0")
    found = tools.sanitizer(options_in(tmp_path))
    assert next(found) == {"case": "planted fault", "found": False}
    with pytest.raises(RuntimeError, match="did not find the planted fault, it left with 0"):
        next(found)


def test_the_sanitizer_tells_what_it_finds_of_each_backend(tmp_path, monkeypatch):
    script = 'case "$*" in *--plant*) exit 9;; *racecheck*triton*) echo "RACECHECK: a race"; exit 9;; esac'
    install(tmp_path / "bin", monkeypatch, "compute-sanitizer", script)
    planted, *rows = tools.sanitizer(options_in(tmp_path))
    assert planted["found"]
    assert [(row["case"], row["implementation"], row["correct"]) for row in rows] == [
        ("memcheck", "dmgan_fast, cuda", True),
        ("memcheck", "dmgan_fast, triton", True),
        ("racecheck", "dmgan_fast, cuda", True),
        ("racecheck", "dmgan_fast, triton", False),
    ]
    assert "a race" in rows[-1]["failed"]


def test_the_profiler_tells_the_longest_launch_of_each_kernel(tmp_path, monkeypatch):
    (tmp_path / "out.csv").write_text(CSV)
    install(tmp_path / "bin", monkeypatch, "ncu", f"cat {tmp_path}/out.csv")
    assert list(tools.profiler(options_in(tmp_path))) == [
        {"case": "void batch_norm<float>", "nanoseconds": 3000.0, "memory_percent": 80.0},
        {"case": "_read_kernel", "nanoseconds": 2500.0},
    ]
    install(tmp_path / "bin", monkeypatch, "ncu", 'echo "no permission to read counters"; exit 1')
    with pytest.raises(RuntimeError, match="left with 1: no permission to read counters"):
        list(tools.profiler(options_in(tmp_path)))


def test_tools_that_are_not_installed_are_skipped(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    for stage, name in ((tools.sanitizer, "compute-sanitizer"), (tools.profiler, "ncu")):
        with pytest.raises(Skipped, match=f"{name} is not installed"):
            next(stage(options_in(tmp_path)))


def test_what_the_tools_watch_runs_every_op(monkeypatch):
    seen = set()
    real = tools.make

    def watched(op, *arguments):
        seen.add(op)
        return real(op, *arguments)

    monkeypatch.setattr(tools, "make", watched)
    monkeypatch.setattr(sys, "argv", ["tools", "--device", "cpu"])
    tools.main()
    assert seen == set(cases.OPS)


# ------------------------------------------------------------------------------------------------------------- summary


def test_a_run_that_was_cut_off_still_tells(tmp_path, capfd):
    options = replace(options_in(tmp_path), device="cuda")
    wrong = {"stage": "check", "op": "toy", "case": "c", "precision": "tf32", "implementation": "dmgan_fast, cuda"}
    kernels = {"stage": "ops", "op": "toy", "case": "c", "direction": "forward", "median_ms": 2.0, "bytes": 4e6}
    journal(
        options,
        wrong | {"correct": False, "error": 0.5, "gradient_error": 1.0},
        {"stage": "check", "status": "done", "seconds": 3.0},
        kernels | {"implementation": "dmgan_fast", "correct": True, "graph_ms": 1.0},
        {"stage": "ops", "op": "peak", "case": "copy", "per_second": 3e12},
        {"stage": "ops", "status": "cut off", "seconds": 9.0, "why": "its limit was 9 s"},
    )
    assert not summary.summarise(options)
    page = (tmp_path / "card.md").read_text()
    assert "| ops | cut off: its limit was 9 s | 9.0 | 1 rows; copies at 3000 GB/s |" in page
    assert "| check | toy | c | tf32 | dmgan_fast, cuda | wrong |" in page
    assert "| toy | c |  | dmgan_fast | forward | 2.0000 | 1.0000 | 4 | right |" in page
    assert "Unknown: the first stage did not say" in page


def test_a_run_without_fault_is_told_so(tmp_path, capfd):
    options = options_in(tmp_path)
    journal(
        options,
        {"stage": "sanitizer", "status": "skipped", "seconds": 0.0, "why": "compute-sanitizer is not installed"},
        {"stage": "check", "op": "toy", "implementation": "authors", "correct": False},
        {"stage": "check", "status": "done", "seconds": 1.0},
    )
    assert summary.summarise(options)
