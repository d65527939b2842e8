"""What the Triton kernels read of the GPU's memory: no more sectors of 32 bytes than their bytes fill."""

# isort: off
from .interpreter import counted_loads, mutant  # before anything imports Triton

# isort: on
from functools import partial

import pytest
import torch

from dmgan_fast import kernels
from dmgan_fast.kernels import batch_norm_glu, upsample_conv3x3

from . import launches
from .launches import NCHW, NHWC

LIMIT = 1.1  # times the ideal
# Rows that begin at sectors. Those of 18 words or 17x17 regions begin anywhere, which costs any kernel up to one sector
# more for each piece of a row.
WORDS, REGIONS = 16, 256
LAUNCHES = {
    "memory_read": partial(launches.memory_read, words=WORDS, batch=1, side=16),
    "memory_write": partial(launches.memory_write, words=WORDS, batch=1),
    "batch_norm_glu": partial(launches.batch_norm_glu, batch=1, side=16),
    "upsample_conv3x3": partial(launches.upsample_conv3x3, batch=1, size=(1, 128)),  # two tiles side by side
    "words_similarity": partial(launches.words_similarity, words=WORDS, batch=2, regions=REGIONS),
}
WITHOUT_PICTURES = "memory_write", "words_similarity"
# Reads of x one column to the left and to the right of a few pixels: each begins and ends within a sector that the read
# of the middle column has just brought. Over all loads of a program, which its cache sees, these are held to the limit.
SHIFTED = {("_grad_weight_kernel", "x")}
CASES = [
    (op, dtype, channels, layout)
    for op in LAUNCHES
    for dtype, channels in ((torch.bfloat16, 32), (torch.bfloat16, 64), (torch.bfloat16, 96), (torch.float32, 32))
    for layout in ((NCHW,) if op in WITHOUT_PICTURES else (NCHW, NHWC))
]


def wasteful(op: str, dtype: torch.dtype, channels: int, layout: torch.memory_format) -> list[str]:
    """The arguments of kernels that are read by more sectors than allowed."""
    with counted_loads() as found:
        LAUNCHES[op](dtype, layout, channels)
    assert found
    excused = SHIFTED if layout is NCHW else set()
    ratios = {at: traffic.ratio_of_programs if at in excused else traffic.ratio for at, traffic in found.items()}
    return [f"{kernel} reads {name}: {ratio:.2f}" for (kernel, name), ratio in ratios.items() if ratio > LIMIT]


@pytest.mark.parametrize(("op", "dtype", "channels", "layout"), CASES, ids=str)
def test_loads_touch_no_more_sectors_than_their_bytes_fill(op, dtype, channels, layout):
    assert wasteful(op, dtype, channels, layout) == []


@pytest.mark.parametrize(
    ("op", "old", "new", "fault"),
    [
        pytest.param(
            batch_norm_glu,
            "    if CHANNELS_LAST:\n        return (ptr + pixel",
            "    if not CHANNELS_LAST:\n        return (ptr + pixel",
            "_forward_kernel reads x",
            id="transposed pointers",
        ),
        pytest.param(
            upsample_conv3x3,
            "    if CHANNELS_LAST:\n        p = first",
            "    if BP > 0:\n        p = first",
            "_grad_x_kernel reads grad_y",
            id="columns two apart",
        ),
    ],
)
def test_uncoalesced_loads_are_caught(op, old, new, fault, tmp_path, monkeypatch):
    name = op.__name__.rpartition(".")[2]
    monkeypatch.setattr(kernels, name, mutant(op, old, new, tmp_path))
    assert any(line.startswith(fault) for line in wasteful(name, torch.bfloat16, 32, NCHW))
