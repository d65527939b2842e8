"""A block with a skip in tiles."""

import pytest
import torch

from dmgan_fast import functional
from dmgan_fast.errors import InputError
from tests.ops.tiled import I, block


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 3}, r"rows must be at least 4 .* got 3"),
        ({"skip": torch.ones(2, 3, 9, 7)}, "skip's channels must divide 10, got 3"),
        ({"skip": torch.ones(2, 10, 9, 8)}, r"skip must have shape \[2, K, 9, 7\], got \[2, 10, 9, 8\]"),
        ({"conv_weight": torch.ones(5, I, 3, 3)}, r"weight must have shape \[5\], got \[10\]"),
        ({"training": False, "running_var": None}, "evaluation needs running_mean"),
    ],
)
def test_bad_input_of_a_block_with_a_skip_is_named(change, message):
    tensors, running, options = block("skip", torch.float32)
    with pytest.raises(InputError, match=f"tiled_skip: .*{message}"):
        functional.tiled_skip(**(tensors | running | options | {"training": True} | change))
