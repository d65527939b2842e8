"""Which rows of an image lie where; what several processes make of them is in ``test_exact.py``."""

from types import SimpleNamespace

import pytest
import torch

from dmgan_fast.config import load_config
from dmgan_fast.errors import InputError
from dmgan_fast.parallel import Processes, RowSplit
from dmgan_fast.runs.config import PretrainConfig
from tests.parallel.conftest import ROWS_BATCH, SIZE, rows_config
from tests.training.planning.test_measure import POLICIES, predicted


def split(rank, size):
    group = SimpleNamespace(rank=lambda: rank, size=lambda: size)
    return RowSplit(group, group)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64])
@pytest.mark.parametrize("side", [64, 128, 1024])
def test_rows_follow_each_other_in_the_same_places_of_every_resolution(side, size):
    parts = [range(side)[split(rank, size).of(side)] for rank in range(size)]
    assert [row for part in parts for row in part] == list(range(side))
    assert all(len(part) % (side // 64) == 0 for part in parts)
    assert max(map(len, parts)) - min(map(len, parts)) <= side // 64


def test_own_rows_are_views_of_the_images():
    images = [torch.rand(2, 3, side, side) for side in (64, 128)]
    own = split(1, 3).own(images)
    assert [list(each.shape) for each in own] == [[2, 3, 21, 64], [2, 3, 42, 128]]
    assert torch.equal(own[1], images[1][:, :, 42:84])
    assert own[1].untyped_storage().data_ptr() == images[1].untyped_storage().data_ptr()


@pytest.mark.parametrize("size", [2, 3, 5, 64])
def test_planned_for_is_a_process_with_the_most_rows(size):
    planned = RowSplit.planned(size)
    assert planned.size == size
    assert planned.count(128) == max(split(rank, size).count(128) for rank in range(size))


def test_a_plan_for_rows_tells_what_a_process_with_the_most_rows_allocates(of_three):
    """The last of three, which has 22 of 64 rows; the others, with 21, less."""
    found = predicted(rows_config(SIZE), POLICIES["op"], ROWS_BATCH).peak_bytes
    *others, last = (found["peak of rows"] for found in of_three[0])
    assert found == pytest.approx(last, rel=0.01)
    assert all(0.9 * found < other < found for other in others)


@pytest.mark.parametrize("rows", [2, 0, 65])
def test_one_process_divides_no_rows(rows):
    with pytest.raises(InputError, match=rf"parallel.rows={rows}: .* there is 1 process; start {rows} or a multiple"):
        Processes.of(rows=rows)


def test_encoders_are_not_trained_by_rows():
    with pytest.raises(InputError, match=r"parallel.rows=2 is for training the GAN"):
        load_config(PretrainConfig, {"parallel": {"rows": 2}})
