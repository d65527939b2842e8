"""Memory policies refuse what can not be."""

import pytest

from dmgan_fast.runs.policy import MemoryPolicy


@pytest.mark.parametrize(
    "values",
    [{"checkpointing": "everything"}, {"tile_rows": 3}, {"micro_batch": 0}],
    ids=lambda values: next(iter(values)),
)
def test_impossible_values_are_refused(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        MemoryPolicy(**values)
