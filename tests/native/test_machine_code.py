"""What the compiler made of hot loops, at every level that is built: no vector travels through the stack, and products
are that level's multiply-add on its widest registers. The library must hold its symbols, as one built in place does.

``DMGAN_MACHINE_CODE=FOLDER`` looks at the libraries there instead; ``make machine-code COMPILER=g++-11`` makes some.
"""

import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from dmgan_fast import native
from tests.native.machine_code import FUSED, REGISTERS, Function, Instruction, read

SOURCES = Path(__file__).parents[2] / "csrc" / "cpu"


def library(level: str) -> Path | None:
    folder = os.environ.get("DMGAN_MACHINE_CODE")
    return next(Path(folder).glob(f"_cpu_{level}.*"), None) if folder else native.library_file(f"cpu_{level}")


LEVELS = [level for level in native.built_levels() if level in REGISTERS and library(level)]
assert LEVELS, "no library of a level is there"
REGISTER_BYTES = {"sse2": 16, "avx2": 32, "avx512": 64}
BLOCK = {"sse2": 10, "avx2": 12, "avx512": 24}  # accumulators of the widest block of a product (gemm.h)

# Functions marked DMGAN_HOT, by what their loops do.
PRODUCTS = "multiply_products add_products forward_tile backward_tile reduce_chunk attend project outer_rows"
PRODUCTS += " write_memory backward_sample contexts multiply_pairs spread_pairs"
PRODUCTS += " match_pairs pull_pairs pull_contexts"
TRANSFORMS = "transform_windows write_channels transposed_windows spread_gradients"
# Here one loop takes a whole vector at a time, and where few elements are left, copies them through an array. And there
# may be more constants and numbers of a channel than registers: what stays as it is in the loop may lie on the stack.
STRIPS = "channel_moments chunk_moments forward_channel forward_chunk channel_sums chunk_sums backward_channel"
STRIPS += " backward_chunk score_tile sum_scaled add_band"
NINE_SUMS = "add_band"  # of a band of rows: fewer than a block of a product
MOVES = "load_tiles store_tiles transpose sum_rows add_rows"
ALL = f"{PRODUCTS} {TRANSFORMS} {STRIPS} {MOVES}"


@cache
def hot(level: str) -> tuple[Function, ...]:
    file = library(level)
    assert file is not None
    names = re.compile(rf"({'|'.join([*ALL.split()])})(<|$)")
    return tuple(function for function in read(file) if names.match(function.name))


def named(level: str, names: str) -> list[Function]:
    found = [function for function in hot(level) if function.name.split("<")[0] in names.split()]
    missing = set(names.split()) - {function.name.split("<")[0] for function in found}
    assert not missing, f"{level}: no machine code of {sorted(missing)}: is the library built in place?"
    return found


def fused(level: str, loop: tuple[Instruction, ...]) -> int:
    return sum(bool(FUSED[level].search(i.text)) for i in loop)


def apart(loop: tuple[Instruction, ...]) -> list[Instruction]:
    """Sums and products of vectors that are not one instruction, where the level has one for both."""
    return [i for i in loop if re.match(r"v(mul|add|sub)ps", i.text)]


def complaint(level: str, function: Function, instruction: Instruction, what: str) -> str:
    return f"{level}: {function.name}: {what}: {instruction.address:x}: {instruction.text}"


def through_the_stack(level: str, function: Function, loops: list[tuple[Instruction, ...]]) -> list[str]:
    return [
        complaint(level, function, instruction, "a vector goes through the stack")
        for loop in loops
        for instruction in function.spills(loop, REGISTER_BYTES[level])
    ]


def stores(complaints: list[str]) -> list[str]:
    return [line for line in complaints if line.endswith(")")]  # in AT&T's order the target comes last


def steady(level: str, function: Function) -> list[tuple[Instruction, ...]]:
    """The loop over whole vectors: the shortest of those with the most multiply-adds."""
    loops = [loop for loop in function.inner_loops() if fused(level, loop)]
    return sorted(loops, key=lambda loop: (-fused(level, loop), len(loop)))[:1]


def test_every_hot_function_is_looked_at():
    marked = set()
    for file in SOURCES.iterdir():
        marked |= set(re.findall(r"^DMGAN_HOT [\w ]*?(\w+)\(", file.read_text(), re.M))
    assert marked == set(ALL.split())


@pytest.mark.parametrize("level", LEVELS)
def test_no_vector_of_a_product_or_transform_goes_through_the_stack(level: str):
    wrong = []
    for function in named(level, f"{PRODUCTS} {TRANSFORMS}"):
        wrong += through_the_stack(level, function, function.inner_loops())
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("level", LEVELS)
def test_products_are_multiply_adds_on_the_widest_registers(level: str):
    wrong = []
    for function in named(level, f"{PRODUCTS} {NINE_SUMS}"):
        least = 9 if function.name == NINE_SUMS else BLOCK[level]
        blocks = [loop for loop in function.inner_loops() if fused(level, loop) >= least]
        if not any(apart(loop) == [] for loop in blocks):
            wrong.append(f"{level}: {function.name}: no loop is {least} multiply-adds on {REGISTERS[level]}")
            wrong += [complaint(level, function, i, "not fused") for loop in blocks for i in apart(loop)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("level", LEVELS)
def test_no_vector_is_stored_to_the_stack_in_the_steady_loop_of_a_strip(level: str):
    wrong = []
    for function in named(level, STRIPS):
        loops = steady(level, function)
        if not loops:
            wrong.append(f"{level}: {function.name}: no loop has a multiply-add on {REGISTERS[level]}")
        wrong += stores(through_the_stack(level, function, loops))
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("level", LEVELS)
def test_moves_store_no_vector_to_the_stack(level: str):
    wrong = []
    for function in named(level, MOVES):
        wrong += stores(through_the_stack(level, function, function.inner_loops()))
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("level", [level for level in LEVELS if level != "avx512"])
def test_a_level_holds_no_instruction_of_a_higher_one(level: str):
    higher = re.compile(r"%zmm|%k[0-7]" if level == "avx2" else r"^v[a-z0-9]+ .*%[xyz]mm")
    file = library(level)
    assert file is not None
    wrong = [complaint(level, f, i, "of a higher level") for f in read(file) for i in f.code if higher.search(i.text)]
    assert not wrong, "\n".join(wrong[:20])


# A block of products with vectors of any width, as the kernels had it with 64 bytes for all CPUs.
BLOCK_OF_ANY_WIDTH = """
#include <cstring>
typedef float Vec __attribute__((vector_size(BYTES)));
constexpr long kLanes = BYTES / 4;
void multiply_products(long depth, const float* a, const float* b, float* c) {
  Vec sums[6][64 / BYTES] = {};
  for (long k = 0; k < depth; ++k) {
    Vec of_b[64 / BYTES];
#pragma GCC unroll 16
    for (int v = 0; v < 64 / BYTES; ++v) std::memcpy(&of_b[v], b + k * 16 + v * kLanes, BYTES);
#pragma GCC unroll 16
    for (int r = 0; r < 6; ++r) {
      const float x = a[k * 6 + r];
#pragma GCC unroll 16
      for (int v = 0; v < 64 / BYTES; ++v) sums[r][v] += x * of_b[v];
    }
  }
  std::memcpy(c, sums, sizeof(sums));
}
"""


def compiled(folder: Path, source: str, *flags: str) -> list[Function]:
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    assert compiler, "no C++ compiler is there"
    (folder / "block.cpp").write_text(source)
    options = ["-O3", "-march=x86-64-v3", "-ffp-contract=fast", "-Wno-psabi", *flags]
    subprocess.run([compiler, *options, "-c", folder / "block.cpp", "-o", folder / "block.o"], check=True)
    return list(read(folder / "block.o"))


@pytest.mark.skipif("avx2" not in LEVELS, reason="the example is for x86-64")
def test_vectors_wider_than_registers_are_seen_in_the_stack(tmp_path: Path):
    (wide,) = compiled(tmp_path, BLOCK_OF_ANY_WIDTH, "-DBYTES=64", "-fno-tree-vectorize")
    (narrow,) = compiled(tmp_path, BLOCK_OF_ANY_WIDTH, "-DBYTES=32")
    assert wide.name == narrow.name == "multiply_products"
    assert through_the_stack("avx2", narrow, narrow.inner_loops()) == []
    assert max(fused("avx2", loop) for loop in narrow.inner_loops()) == BLOCK["avx2"]
    found = through_the_stack("avx2", wide, wide.inner_loops())
    assert stores(found)
    assert re.fullmatch(r"avx2: multiply_products: a vector goes through the stack: [0-9a-f]+: v.*\(%r.p\).*", found[0])


@pytest.mark.skipif("avx2" not in LEVELS, reason="the example is for x86-64")
def test_products_that_are_not_fused_are_seen(tmp_path: Path):
    (apart,) = compiled(tmp_path, BLOCK_OF_ANY_WIDTH, "-DBYTES=32", "-ffp-contract=off")
    assert max(fused("avx2", loop) for loop in apart.inner_loops()) == 0
