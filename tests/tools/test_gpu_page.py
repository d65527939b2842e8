"""The page of GPUs: what a run of ``benchmarks.card`` must hold for a GPU to be verified, and its table."""

import json

import pytest

from tests.metering.test_launches import BIRDS
from tools import gpu_page

MACHINE = {"stage": "environment", "name": "NVIDIA H100 80GB HBM3", "driver": "570.1", "cuda": "13.0"}
MACHINE |= {"environment": {"commit": "abc1234", "versions": {"torch": "2.11.0"}}}
STEP = {"stage": "steps", "op": "step", "case": "birds B10", "precision": "bf16", "implementation": "dmgan_fast"}
STEP |= {"correct": True, "median_ms": 8.0, "host_ms": 7.0, "images_per_second": 1250.0, "of_measured_peak": 0.31}


def run(*changed):
    stages = {name: {"stage": name, "status": "done", "seconds": 1.0} for name in (*gpu_page.PROOFS, "ops")}
    return [MACHINE, STEP, *(stages | {row["stage"]: row for row in changed if "status" in row}).values()] + [
        row for row in changed if "status" not in row
    ]


def test_a_run_that_proves_everything_verifies_its_gpu():
    assert gpu_page.is_verified(run())


@pytest.mark.parametrize(
    "fault",
    [
        {"stage": "sanitizer", "status": "skipped", "seconds": 0.0, "why": "compute-sanitizer is not installed"},
        {"stage": "check", "status": "cut off", "seconds": 9.0},
        {"stage": "check", "implementation": "dmgan_fast, cuda", "correct": True, "same_bits": False},
        {"stage": "steps", "case": "steps replayed from a graph learn what others do", "correct": False},
        {"stage": "sanitizer", "case": "planted fault", "found": False},
    ],
)
def test_a_run_that_leaves_a_proof_out_or_finds_a_fault_does_not(fault):
    assert not gpu_page.is_verified(run(fault))


def test_times_and_what_rivals_get_wrong_do_not_decide():
    slow = {"stage": "ops", "status": "cut off", "seconds": 9.0}
    rival = {"stage": "check", "implementation": "authors", "correct": False}
    assert gpu_page.is_verified(run(slow, rival))


def test_each_measured_gpu_has_one_table(tmp_path):
    folder = tmp_path / "nvidia_h100_80gb_hbm3"
    folder.mkdir()
    (folder / "card.jsonl").write_text("".join(json.dumps(row) + "\n" for row in run()))
    text = gpu_page.measured(tmp_path)
    assert "### NVIDIA H100 80GB HBM3" in text
    assert "verified; driver 570.1, CUDA 13.0, torch 2.11.0, commit abc1234." in text
    assert "| step | birds B10 | bf16 | dmgan_fast | 8.00 | 7.00 | 1250 | 31% |" in text


def test_where_none_was_measured_the_page_says_that_its_figures_are_computed(tmp_path):
    assert gpu_page.measured(tmp_path) == gpu_page.NONE


def test_the_page_has_the_launches_that_are_committed():
    page = gpu_page.PAGE.read_text()
    assert f"| {BIRDS['bf16']:,} | {BIRDS['fp32']:,} |" in page
