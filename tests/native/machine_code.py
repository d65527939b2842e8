"""What a compiler made of hot loops: reads the disassembly of a library (``objdump`` of binutils)."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# What the widest registers of a level are called, and its packed multiply-add; SSE2 has a multiplication only.
REGISTERS = {"sse2": "xmm", "avx2": "ymm", "avx512": "zmm"}
FUSED = {
    "sse2": re.compile(r"^mulps .*%xmm"),
    "avx2": re.compile(r"^vfn?m(add|sub)\d+ps .*%ymm"),
    "avx512": re.compile(r"^vfn?m(add|sub)\d+ps .*%zmm"),
}

_FUNCTION = re.compile(r"^[0-9a-f]+ <(?P<name>.*)>:$")
_INSTRUCTION = re.compile(r"^ *(?P<address>[0-9a-f]+):\t(?P<text>.*)$")
_JUMP = re.compile(r"^(bnd |notrack )*j[a-z]+ +(?P<target>[0-9a-f]+) <")
_PACKED = re.compile(r"%[xyz]mm")
_SCALAR = re.compile(r"^v?(mov(ss|sd|d|q)|[a-z0-9]+(ss|sd)|p?extr[a-z]+|p?insr[a-z]+|cvt[a-z0-9]*s[sd][a-z0-9]*)\b")
_MEMORY = re.compile(r"(?P<offset>-?0x[0-9a-f]+|)\(%(?P<base>[a-z0-9]+)(?P<index>,[^)]*)?\)")


@dataclass(frozen=True)
class Instruction:
    address: int
    text: str


@dataclass(frozen=True)
class Function:
    name: str  # without namespaces and arguments, with template arguments
    code: tuple[Instruction, ...]

    def inner_loops(self) -> list[tuple[Instruction, ...]]:
        """From the target of each backward jump to the jump, where no other such range lies within."""
        first = self.code[0].address
        ends: dict[int, int] = {}
        for instruction in self.code:
            jump = _JUMP.match(instruction.text)
            target = int(jump["target"], 16) if jump else instruction.address + 1
            if first <= target <= instruction.address:
                ends[target] = instruction.address  # of several jumps to one target, the last
        loops = ends.items()
        inner = [(a, b) for a, b in loops if not any(a < start and end <= b for start, end in loops)]
        return [tuple(i for i in self.code if a <= i.address <= b) for a, b in sorted(inner)]

    def spills(self, loop: tuple[Instruction, ...], array_bytes: int) -> list[Instruction]:
        """Instructions that take a vector from the stack or put it there.

        Not of an array: in ``array_bytes`` from a place whose address is taken or indexed, or where single numbers are.
        """
        bases = {"rsp", "rbp"} if any(re.match(r"mov +%rsp,%rbp", i.text) for i in self.code) else {"rsp"}
        arrays, numbers = set(), set()
        for instruction in self.code:
            place = _MEMORY.search(instruction.text)
            if place and place["base"] in bases:
                at = place["base"], int(place["offset"] or "0", 16)
                if instruction.text.startswith("lea") or place["index"]:
                    arrays |= {(at[0], at[1] + piece) for piece in range(0, array_bytes, 16)}
                elif not is_packed(instruction.text):
                    numbers.add(at)
        found = []
        for instruction in loop:
            place = _MEMORY.search(instruction.text)
            if place and place["base"] in bases and is_packed(instruction.text):
                start = int(place["offset"] or "0", 16)
                held = {(place["base"], start + at) for at in range(width(instruction.text))}
                if not held & numbers and (place["base"], start) not in arrays:
                    found.append(instruction)
        return found


def is_packed(text: str) -> bool:
    """Whether an instruction works on whole vectors."""
    return bool(_PACKED.search(text)) and not _SCALAR.match(text)


def width(text: str) -> int:
    """Bytes of the widest register of an instruction."""
    return max(({"x": 16, "y": 32, "z": 64}[name] for name in re.findall(r"%([xyz])mm", text)), default=8)


def short(name: str) -> str:
    """``void dmgan::f<dmgan::Form<...> >(...) [clone ...]`` -> ``f<Form<...>>``."""
    name = re.sub(r"\(anonymous namespace\)::|dmgan::|c10::| \[clone [^]]*\]", "", name).replace("> >", ">>")
    depth = 0
    for at, character in enumerate(name):
        depth += (character == "<") - (character == ">")
        if character == "(" and depth == 0:
            name = name[:at]
            break
    return re.sub(r"^.* (?=\w+(<.*>)?$)", "", name) if "<" not in name.split(" ", 1)[0] else name


def read(file: Path) -> Iterator[Function]:
    """The functions of a library or object that holds symbols."""
    tool = shutil.which("objdump")
    assert tool, "objdump is not there: install binutils"
    command = [tool, "-d", "-C", "--no-show-raw-insn", "-w", str(file)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    name, code = "", []
    for line in [*listing.splitlines(), "0 <end>:"]:
        if start := _FUNCTION.match(line):
            if code and "[clone .cold]" not in name:
                yield Function(short(name), tuple(code))
            name, code = start["name"], []
        elif found := _INSTRUCTION.match(line):
            code.append(Instruction(int(found["address"], 16), found["text"].split("#")[0].strip()))
