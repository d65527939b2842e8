"""Settings of an evaluation."""

import pytest

from dmgan_fast.errors import InputError


@pytest.mark.parametrize(("values", "message"), [({"count": 1}, "count: .*got 1"), ({"seed": -1}, "seed: .*got -1")])
def test_settings_out_of_range_are_named(config, values, message):
    with pytest.raises(InputError, match=message):
        config(**values)
