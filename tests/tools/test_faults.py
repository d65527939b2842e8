"""Faults on purpose: a dozen of the campaign's kills and some of its scenarios, in processes away from pytest's own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tools.faults import rig as machine
from tools.faults.kills import KILL_MOMENTS
from tools.faults.rig import Broken

ROOT = Path(__file__).parents[2]
SCENARIOS = ("every checkpoint damaged", "NaN in a gradient")


def test_killed_and_cheated_runs_go_on_with_the_bits_of_an_undisturbed_one(tmp_path):
    report = tmp_path / "faults.json"
    command = [sys.executable, "-m", "tools.faults", "--kills", "12", "--jobs", "1", "--report", str(report)]
    done = subprocess.run(
        [*command, "--only", *SCENARIOS, "kills"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["name"]: row for row in json.loads(report.read_text())}
    assert {name: row["result"] for name, row in rows.items()} == dict.fromkeys((*SCENARIOS, "kills"), "held")
    kills = [kill for trial in rows["kills"]["trials"] for kill in trial["kills"]]
    assert len(rows["kills"]["trials"]) == 12
    assert {kill["moment"] for kill in kills} <= set(KILL_MOMENTS)
    assert all(kill["goes on from"] >= kill["completed"] for kill in kills)


def _ends(status):
    def work(board):
        board.say("a name")
        board.set("completed", 3)
        raise SystemExit(status) if status else machine.DMGANError("a name: refused")

    return work


def test_a_run_in_another_process_tells_how_it_ended_and_what_it_had_done():
    run = machine.fork(_ends(0))
    assert run.wait() == machine.EXIT_BAD_INPUT
    assert (run.board.said, run.board.completed) == ("a name: refused", 3)
    assert machine.fork(_ends(5)).wait() == machine.EXIT_BROKEN


def test_a_run_that_does_not_end_is_broken():
    run = machine.fork(lambda board: machine.time.sleep(60))
    with pytest.raises(Broken, match=r"did not end within 0\.2 s"):
        run.wait(0.2)
    assert run.status == -9


def test_settings_of_a_disturbed_run_win_over_those_of_every_run(tmp_path):
    rig = machine.Rig.__new__(machine.Rig)
    rig.encoders, rig.images = tmp_path / "encoders", tmp_path / "images"
    loop = rig.config(("loop.steps=90", "loop.checkpoint_every=10")).loop
    assert (loop.steps, loop.checkpoint_every, loop.batch_size) == (90, 10, 4)


def test_a_lost_checkpoint_and_another_bit_are_broken_promises(tmp_path):
    rig = machine.Rig.__new__(machine.Rig)
    with pytest.raises(Broken, match="the checkpoint of step 2 is gone"):
        rig.survives(tmp_path, 2)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(Broken, match="of step 2 was complete, the newest is of step 0"):
        rig.survives(tmp_path, 2)
