"""Bad input: a few cases of each strategy of the campaign, and what the campaign itself must notice."""

import os
import signal
import time

import pytest
import torch
from hypothesis import strategies as st

from dmgan_fast import functional
from dmgan_fast.errors import InputError
from tools.fuzz.campaign import campaign, run_cases
from tools.fuzz.targets import TARGETS
from tools.fuzz.verdict import Fault, Target, Wrong, judge

CASES = {"op": 40, "function": 40, "reader": 20, "command": 150}


@pytest.mark.parametrize("name", TARGETS)
def test_bad_input_is_refused_by_name_and_what_is_accepted_is_right(name, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    torch.set_num_threads(1)
    target, outcomes = TARGETS[name], []
    count = max(2, round(CASES[target.kind] * target.share))
    run_cases(target, count, 0, lambda case, outcome, what: outcomes.append((outcome, what, case)))
    assert len(outcomes) == count
    assert [each for each in outcomes if each[0] == "failed"] == []


def _target(check, cases=None):
    return Target("x", "op", cases or st.integers(0, 9), check, lambda case: ("name",))


def _refuse(message):
    raise InputError(message)


def _wrong(case):
    raise Wrong("it is off")


def test_a_refusal_must_name_what_it_refuses():
    assert judge(_target(lambda case: None), 1) == "accepted"
    assert judge(_target(lambda case: _refuse("name must be 1")), 1) == "refused"
    with pytest.raises(Fault, match="names none of name: bad"):
        judge(_target(lambda case: _refuse("bad")), 1)


def test_a_foreign_error_and_a_wrong_answer_are_faults():
    with pytest.raises(Fault, match=r"ZeroDivisionError at tests/tools/test_fuzz\.py"):
        judge(_target(lambda case: 1 // 0), 1)
    with pytest.raises(Fault, match="wrong answer: it is off"):
        judge(_target(_wrong), 1)


def test_a_result_that_is_off_by_a_thousandth_is_a_fault(monkeypatch):
    """Roundings of the arguments do not excuse it."""
    conv3x3, outcomes = functional.conv3x3, []

    def off(x, backend=None, **rest):
        y = conv3x3(x, backend=backend, **rest)
        return y if backend == "reference" or x.dtype != torch.float32 else y * 1.001

    monkeypatch.setattr(functional, "conv3x3", off)
    run_cases(TARGETS["conv3x3"], 60, 0, lambda case, outcome, what: outcomes.append(what.partition(" off by")[0]))
    assert outcomes.count("wrong answer: result 0 is") >= 3


def _dies(case):
    if case == 3:
        os.kill(os.getpid(), signal.SIGSEGV)


def _hangs(case):
    if case == 3:
        time.sleep(60)


def _eats(case):
    if case == 3:
        bytearray(1 << 36)


@pytest.mark.parametrize(
    ("check", "what"), [(_dies, "crash: SIGSEGV"), (_hangs, "hang: more than 1 s"), (_eats, "MemoryError")]
)
def test_a_crash_a_hang_and_a_bomb_are_failures_and_the_campaign_goes_on(check, what):
    cases = st.sampled_from((1, 2, 3))
    (row,) = campaign([_target(check, cases)], cases=4, limit=1.0)
    assert row.cases == 4
    assert row.failures >= 1
    assert any(what in example["what"] and example["case"] == "3" for example in row.examples)


def test_the_same_seed_gives_the_same_cases():
    def cases(number):
        seen = []
        run_cases(_target(seen.append, st.integers(0, 1 << 40)), 20, number, lambda *_: None)
        return seen

    assert cases(1) == cases(1) != cases(2)
