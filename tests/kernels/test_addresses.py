"""The Triton kernels' grids fit every card, and their addresses reach the end of any tensor, at sizes too large to
compute at: batches above 65,535 and more than 2^31 elements.
"""

# isort: off
from .addresses import Launch, last_programs  # before anything imports Triton

# isort: on
from functools import cache, partial

import pytest
import torch

from dmgan_fast.kernels import batch_norm_glu, memory_read, upsample_conv3x3, words_similarity

from . import launches
from .launches import NCHW, NHWC

LONGEST_GRID = (2**31 - 1, 65_535, 65_535)  # of a card
MANY = 70_000  # samples
HUGE = 2**31  # elements
# What one program sums over all samples or pixels, it sums in larger steps, or it would take thousands.
LARGE_STEPS = ((memory_read, "ADD_ROWS"), (batch_norm_glu, "REDUCE_ROWS"), (upsample_conv3x3, "MAX_SPLITS"))


class Skipped:
    """A kernel that is not launched."""

    def __getitem__(self, grid):
        return lambda *_, **__: None


def words_similarity_without(skipped, layout, dtype, **sizes):
    """Launched without some of its kernels, those whose every program sums over all that there is many of."""
    with pytest.MonkeyPatch.context() as patch:
        for name in skipped:
            patch.setattr(words_similarity, f"_{name}_kernel", Skipped())
        launches.words_similarity(dtype, layout, **sizes)


OVER_PICTURES, OVER_WORDS = ("grad_words",), (
    "logits", "context", "score", "cosine_backward", "attention_backward", "softmax_backward", "grad_regions"
)  # fmt: skip
CASES = {
    "memory_read": partial(launches.memory_read, channels=512, words=5, batch=MANY, side=8),
    "memory_write": partial(launches.memory_write, channels=16, words=121, batch=MANY),
    "batch_norm_glu of many samples": partial(launches.batch_norm_glu, channels=16, batch=MANY, side=32),
    "batch_norm_glu of a large sample": partial(launches.batch_norm_glu, channels=64, batch=1, side=4352),
    "upsample_conv3x3 of many samples": partial(launches.upsample_conv3x3, channels=128, batch=MANY, size=(8, 8)),
    "upsample_conv3x3 of a large sample": partial(launches.upsample_conv3x3, channels=64, batch=1, size=(2904, 2904)),
    "words_similarity of many pictures": partial(
        words_similarity_without, OVER_PICTURES, channels=32, words=2, batch=MANY, captions=17, regions=1000
    ),
    "words_similarity of large maps": partial(
        words_similarity_without, OVER_WORDS, channels=16, words=16_400, batch=2, captions=16, regions=4200
    ),
}
WITHOUT_PICTURES = "memory_write", "words_similarity"
LAYOUTS = [
    (name, layout) for name in CASES for layout in ((NCHW,) if name.startswith(WITHOUT_PICTURES) else (NCHW, NHWC))
]


def launched(name, layout) -> list[Launch]:
    with pytest.MonkeyPatch.context() as patch, last_programs() as found:
        for module, steps in LARGE_STEPS:
            patch.setattr(module, steps, 1 << 14)
        CASES[name](dtype=torch.float16, layout=layout)
    return found


once = cache(launched)


def beyond_their_ends(found: list[Launch]) -> list[str]:
    """What kernels touch outside their tensors, and the ends of huge tensors that they do not reach."""
    wrong = [line for one in found for line in one.outside]
    for one in found:
        for name, end in one.touched.items():
            tensor = one.tensors[name]
            if tensor.bytes > HUGE * tensor.dtype.itemsize and end != tensor.bytes:
                wrong.append(f"{one.kernel} ends {tensor.bytes - end} bytes before the end of {name}")
    return wrong


@pytest.mark.parametrize(("name", "layout"), LAYOUTS, ids=str)
def test_huge_tensors_are_reached_to_their_ends_and_no_further(name, layout):
    found = once(name, layout)
    assert any(tensor.bytes > HUGE * tensor.dtype.itemsize for one in found for tensor in one.tensors.values())
    assert beyond_their_ends(found) == []


@pytest.mark.parametrize(("name", "layout"), LAYOUTS, ids=str)
def test_grids_fit_every_card(name, layout):
    for one in once(name, layout):
        assert all(size <= limit for size, limit in zip(one.grid, LONGEST_GRID, strict=True)), (one.kernel, one.grid)
