"""The promise: processes with a part of each batch learn what one process learns from the whole, to 1e-12 in float64.

``python -m tools.exact_processes`` is the whole campaign, on 2, 3 and 4 processes; here are three, of unequal parts.
"""

import pytest
import torch

from tests.parallel.conftest import STEPS, start_unlike
from tools.exact_processes import LIMIT, difference


@pytest.mark.parametrize("case", STEPS)
def test_three_processes_learn_what_one_learns(of_three, alone, case):
    for found in of_three[0]:
        largest, name = difference(found["exact"][case], alone[case])
        assert largest <= LIMIT, name


@pytest.mark.parametrize("case", STEPS)
def test_all_processes_have_the_same_bits(of_three, case):
    first, *others = (found["exact"][case] for found in of_three[0])
    for other in others:
        assert other.keys() == first.keys()
        assert all(torch.equal(other[name], value) for name, value in first.items())


def test_noise_is_the_first_processes_rows_of_one_draw(of_three):
    torch.manual_seed(0)
    whole = torch.randn(6, 4, dtype=torch.float64)
    assert torch.equal(torch.cat([found["exchange"]["random"] for found in of_three[0]]), whole)


@pytest.mark.parametrize("case", ["unlike", "unlike in parts"])
def test_models_that_start_unlike_learn_from_the_first_processes_weights(of_three, case):
    wanted = start_unlike()
    for found in of_three[0]:
        largest, name = difference(found[case], wanted)
        assert largest <= LIMIT, name


def refused(of_three, name):
    return [found["refuse"][name] for found in of_three[0]]


def test_a_bad_part_on_one_process_is_refused_on_all(of_three):
    first, bad, last = refused(of_three, "bad batch")
    assert bad[0] == "InputError"
    assert "batch.lengths must be [2], got [1]" in bad[1]
    for each in (first, last):
        assert each[0] == "ProcessError"
        assert "process 1 of 3 stopped" in each[1]
        assert "batch.lengths" in each[1]
    assert refused(of_three, "still works") == [None] * 3


def test_noise_on_some_processes_only_is_refused_on_all(of_three):
    assert {each[:2] for each in refused(of_three, "noise of some")} == {
        ("InputError", "that a batch has noise must be the same on all processes, which have [0, 1, 1]")
    }


def test_what_processes_can_not_share_is_refused_with_what_to_do(of_three):
    for kind, message, _ in refused(of_three, "official"):
        assert kind == "InputError"
        assert "mask_mode='official' mixes the masks of a whole batch" in message
        assert "mask_mode='paper'" in message
    for kind, message, _ in refused(of_three, "parts"):
        assert kind == "InputError"
        assert "accumulate=3 needs as many images on each process, which have [2, 2, 3]" in message


def test_processes_that_hold_images_together_say_what_does_not_go(of_three):
    for rank, (kind, message, _) in enumerate(refused(of_three, "whole images")):
        assert kind == "InputError"
        rows = (21, 21, 22)[rank]
        assert f"batch.images must be [(7, 3, {rows}, 64), (7, 3, {2 * rows}, 128)]" in message
    for kind, message, _ in refused(of_three, "other images"):
        assert (kind, message) == ("InputError", "3 processes hold each image together, but they have [1, 2, 3] images")
    for kind, message, _ in refused(of_three, "tiles of rows"):
        assert kind == "InputError"
        assert "memory.checkpointing='tile' does not go with parallel.rows" in message
        assert "use 'block' or 'stage'" in message
    for kind, message, _ in refused(of_three, "pairs of three"):
        assert kind == "InputError"
        assert "parallel.rows=2: so many processes hold an image together" in message
        assert "there are 3 processes" in message
