"""memory_read's Triton kernels in the sanitizer; and faults put into them, which must show."""

import pytest
import torch

from tests.kernels.interpreter import mutant  # before anything imports Triton
from tests.kernels.memory import DTYPES, Read, assert_caught, inaccurate

from dmgan_fast.kernels import memory_read  # isort: skip

READS = [
    Read((2, 32, 18, 6, 7)),
    Read((2, 5, 7, 5, 17), "channels_last"),
    Read((1, 48, 1, 3, 5), "sliced", masked=False),
    Read((2, 64, 18, 9, 5), "expanded", gated=False, maps=False),
    Read((2, 96, 25, 5, 5), "sliced"),
    Read((2, 16, 31, 5, 5)),  # the longest captions that kernels take, with a gate and without
    Read((2, 16, 32, 5, 5), "channels_last", gated=False),
    Read((2, 16, 32, 5, 5), "sliced"),
    Read((3, 16, 7, 5, 9), "channels_last", official=True, maps=False),
    Read((3, 33, 33, 4, 9), official=True),
    Read((2, 16, 70, 4, 5), "channels_last", gated=False),
    Read((1, 150, 20, 5, 8)),
    Read((1, 140, 40, 3, 3), "channels_last", masked=False),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("case", READS, ids=lambda case: f"{'x'.join(map(str, case.size))}-{case.layout}")
def test_read_is_as_accurate_as_eager_and_clean_in_the_sanitizer(case: Read, dtype: torch.dtype) -> None:
    assert inaccurate(Read(**{**vars(case), "dtype": dtype}).run(memory_read)) == []


def test_read_gives_the_same_bits_again() -> None:
    case = Read((2, 16, 5, 12, 12))
    for first, second in zip(case.run(memory_read), case.run(memory_read), strict=True):
        assert torch.equal(first.ours, second.ours), first.name


READ_MUTANTS = {
    "off-by-one store": ("tl.log(total), mask=live)", "tl.log(total), mask=p <= pixels)", "out of bounds|race"),
    "write race": ("p = tile * BP +", "p = tile * (BP - 1) +", "race"),
    "colliding lanes": ("real = (c < C)[:, None] & (t < words)[None, :]",
                        "real = (c < C)[:, None] & (t <= words)[None, :]", "two lanes"),
    "dropped mask": ("readable = tl.load(mask + sample * words + t[None, :], mask=real, other=True) == 0",
                     "readable = real", None),
    "wrong softmax scale": ("scale = 1.0 /", "scale = 1.1 /", None),
    "wrong gate gradient": ("grad_z = grad_g * g * (1 - g)", "grad_z = grad_g * g", None),
}  # fmt: skip


@pytest.mark.parametrize("name", READ_MUTANTS)
def test_a_fault_in_read_is_caught(name, tmp_path) -> None:
    old, new, fault = READ_MUTANTS[name]
    assert_caught(Read((2, 16, 5, 9, 9)), mutant(memory_read, old, new, tmp_path), fault)
