"""memory_write's Triton kernels in the sanitizer; and faults put into them, which must show."""

import pytest
import torch

from tests.kernels.interpreter import mutant  # before anything imports Triton
from tests.kernels.memory import DTYPES, Write, assert_caught, inaccurate

from dmgan_fast.kernels import memory_write  # isort: skip

WRITES = [Write((1, 5, 7, 1)), Write((2, 32, 48, 18)), Write((3, 48, 33, 7)), Write((2, 40, 64, 33))]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("case", WRITES, ids=lambda case: "x".join(map(str, case.size)))
def test_write_is_as_accurate_as_eager_and_clean_in_the_sanitizer(case: Write, dtype: torch.dtype) -> None:
    assert inaccurate(Write(case.size, dtype).run(memory_write)) == []


WRITE_MUTANTS = {
    "off-by-one store": ("b * C * T + c[None, :] * T + t[:, None]", "b * C * T + c[None, :] * T + t[:, None] + 1",
                         "out of bounds|race"),
    "write race": ("c = channel_block * BO +", "c = channel_block * (BO - 1) +", "race"),
    "dropped gate": ("memory = (g * written + (1 - g) * image[None, :])", "memory = (g * written + image[None, :])",
                     None),
    "dropped relu": ("tl.where(written <= 0, 0.0, g * grad_memory)", "g * grad_memory", None),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITE_MUTANTS)
def test_a_fault_in_write_is_caught(name, tmp_path) -> None:
    old, new, fault = WRITE_MUTANTS[name]
    assert_caught(Write((2, 40, 8, 5)), mutant(memory_write, old, new, tmp_path), fault)
