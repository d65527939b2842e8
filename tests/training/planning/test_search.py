"""What is found is what trying everything finds, with few tries."""

import pytest

from dmgan_fast.runs.config import TrainConfig
from dmgan_fast.training.planning.search import ladder, largest_batch, largest_resolution, most_frugal

PEAKS = {
    "a line": lambda n: 1000 + 70 * n,
    "two lines": lambda n: max(3000 + 11 * n, 100 + 97 * n),
    "parts of four": lambda n: 500 + 30 * n + 200 * min(n, 4) + 5 * (n % 4),
}


@pytest.mark.parametrize("start", [2, 10, 64])
@pytest.mark.parametrize("budget", [0, 1200, 3100, 5000, 40_000])
@pytest.mark.parametrize("name", PEAKS)
def test_no_larger_batch_fits_and_that_one_does(name, budget, start):
    peak, tried = PEAKS[name], []
    found = largest_batch(lambda n: tried.append(n) or peak(n), budget, start, most=300)
    assert found == max((n for n in range(2, 301) if peak(n) <= budget), default=0)
    assert len(tried) <= 16


@pytest.mark.parametrize("budget", [0.1, 0.9, 5, 70, 300, 5000, 10**9])
@pytest.mark.parametrize("state", [0.0, 0.5, 4.0])
def test_the_largest_side_is_found_wherever_the_guess_lies(budget, state):
    bytes_at = {side: state * side / 64 + (side / 64) ** 2 for side in (64, 128, 256, 512, 1024)}
    found = largest_resolution(lambda side: bytes_at[side] <= budget, 256, bytes_at[256], budget, most=1024)
    assert found == max((side for side, needed in bytes_at.items() if needed <= budget), default=0)


def test_policies_go_from_keeping_all_to_the_most_frugal():
    policies = list(ladder(TrainConfig(), 10))
    assert policies[0].checkpointing == "none"
    assert policies[0].micro_batch is None
    assert policies[-1] == most_frugal(TrainConfig(), 10)
    assert policies[-1].checkpointing == ("stage", "stage", "tile")
    assert len(set(policies)) == len(policies)
