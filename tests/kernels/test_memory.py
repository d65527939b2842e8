"""The memory ops' Triton kernels in the sanitizer, against float64; and faults put into them, which must show."""

# isort: off
from .interpreter import InterpreterError, mutant, sanitized  # before anything imports Triton

# isort: on
from dataclasses import dataclass
from types import ModuleType
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from dmgan_fast import reference
from dmgan_fast.kernels import memory_read, memory_write

FORWARD, BACKWARD = 2, 3  # times the error of the eager reference that a result or a gradient may have
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


class Output(NamedTuple):
    name: str
    ours: Tensor
    eager: Tensor
    truth: Tensor  # float64
    factor: int


def rms(x: Tensor) -> float:
    return float(x.double().pow(2).mean().sqrt())


def inaccurate(outputs: list[Output]) -> list[str]:
    """The outputs that are further from the truth than a multiple of the eager reference and a rounding."""
    found = []
    for name, ours, eager, truth, factor in outputs:
        assert ours.shape == truth.shape
        slack = torch.finfo(ours.dtype).eps * rms(truth)
        error, allowed = rms(ours - truth), factor * rms(eager - truth) + slack
        if not error <= allowed:  # NaN is not
            found.append(f"{name}: error {error:.2e}, allowed {allowed:.2e}")
    return found


@dataclass(frozen=True)
class Read:
    """Inputs of memory_read."""

    size: tuple[int, int, int, int, int]  # B, C, T, H, W
    layout: str = "nchw"
    dtype: torch.dtype = torch.float32
    gated: bool = True
    masked: bool = True
    official: bool = False
    maps: bool = True  # attention and gate are asked for

    def picture(self, draw: torch.Generator) -> Tensor:
        batch, channels, _, height, width = self.size
        shape = (batch + 1, channels + 3, height, width)  # more than needed, for slices
        picture = torch.randn(shape, generator=draw).to(self.dtype)
        if self.layout == "nchw":
            return picture[1:, 2:-1].contiguous()
        if self.layout == "channels_last":
            return picture[1:, 2:-1].contiguous(memory_format=torch.channels_last)
        if self.layout == "sliced":
            return picture[1:, 2:-1]
        assert self.layout == "expanded"
        return picture[:1, :1, :1, :1].expand(batch, channels, height, width)

    def run(self, kernels: ModuleType) -> list[Output]:
        batch, channels, words, height, width = self.size
        draw = torch.Generator().manual_seed(0)

        def normal(*shape: int, dtype: torch.dtype = self.dtype) -> Tensor:
            return torch.randn(shape, generator=draw).to(dtype)

        inputs = {"h": self.picture(draw), "key": normal(batch, channels, words) / channels**0.25}
        inputs["value"] = normal(batch, channels, words)
        if self.gated:
            inputs["gate_weight"] = normal(2 * channels, dtype=torch.float32) / channels**0.5
            inputs["gate_bias"] = normal(1, dtype=torch.float32)
        mask = None
        if self.masked:
            mask = torch.rand(batch, words, generator=draw) < 0.4
            mask[0] = True  # a caption without a word
        grads = [self.picture(draw)]
        with_gate = self.maps and self.gated
        if self.maps:
            grads.append(normal(batch, words, height, width))
        if with_gate:
            grads.append(normal(batch, 1, height, width))

        def refer(dtype: torch.dtype) -> list[Tensor]:
            leaves = {name: x.detach().to(dtype).requires_grad_() for name, x in inputs.items()}
            found = reference.memory_read(
                leaves["h"],
                leaves["key"],
                leaves["value"],
                leaves.get("gate_weight"),
                leaves.get("gate_bias"),
                mask,
                "official" if self.official else "paper",
            )
            outputs = [x for x, given in zip(found, (True, self.maps, with_gate), strict=True) if given]
            gradients = torch.autograd.grad(outputs, list(leaves.values()), [grad.to(dtype) for grad in grads])
            return [x.detach() for x in outputs] + list(gradients)

        gate = inputs.get("gate_weight"), inputs.get("gate_bias")
        with sanitized():
            out, lse, attention, gates = kernels.memory_read_forward(
                inputs["h"], inputs["key"], inputs["value"], *gate, mask, self.official, self.maps, with_gate
            )
            assert lse.shape == (batch, height * width)
            gradients = kernels.memory_read_backward(
                grads[0],
                grads[1] if self.maps else None,
                grads[2] if with_gate else None,
                inputs["h"],
                inputs["key"],
                inputs["value"],
                *gate,
                mask,
                lse,
                self.official,
            )
        for picture in (out, gradients[0]):
            assert picture.stride() == torch.empty_like(out).stride()
        assert self.gated or not (gradients[3].numel() or gradients[4].numel())
        names = ["out", *(["attention"] if self.maps else []), *(["gate"] if with_gate else [])]
        ours = [out, attention, gates][: len(names)]
        factors = [FORWARD] * len(names) + [BACKWARD] * len(inputs)
        names += [f"gradient of {name}" for name in inputs]
        ours += gradients[: len(inputs)]
        return list(map(Output, names, ours, refer(self.dtype), refer(torch.float64), factors))


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


def test_a_caption_padded_beyond_the_kernels_reads_the_same() -> None:
    draw = torch.Generator().manual_seed(0)
    h, key, value = (torch.randn(2, 16, *size, generator=draw) for size in ((5, 7), (31,), (31,)))
    gate = torch.randn(32, generator=draw), torch.randn(1, generator=draw)
    mask = torch.rand(2, 31, generator=draw) < 0.3
    mask[1] = True
    longer = [torch.nn.functional.pad(x, (0, 9), value=fill) for x, fill in ((key, 0.0), (value, 0.0), (mask, True))]
    for official in (False, True):
        expected = memory_read.memory_read_forward(h, key, value, *gate, mask, official, True, True)
        found = memory_read.memory_read_forward(h, *longer[:2], *gate, longer[2], official, True, True)
        assert not found[2][:, 31:].any()
        for ours, theirs in zip((*found[:2], found[2][:, :31], found[3]), expected, strict=True):
            torch.testing.assert_close(ours, theirs)


@dataclass(frozen=True)
class Write:
    """Inputs of memory_write. Biases keep the relus off their kink, where a rounding would cost a whole element."""

    size: tuple[int, int, int, int]  # B, C, D, T
    dtype: torch.dtype = torch.float32

    def run(self, kernels: ModuleType) -> list[Output]:
        batch, channels, word_channels, words = self.size
        draw = torch.Generator().manual_seed(0)
        shapes = {
            "words": (batch, word_channels, words),
            "image_mean": (batch, channels),
            "gate_word": (word_channels,),
            "gate_image": (channels,),
            "word_weight": (2 * channels, word_channels),
            "word_bias": (2 * channels,),
            "image_weight": (2 * channels, channels),
            "image_bias": (2 * channels,),
            "key_weight": (channels, 2 * channels),
            "key_bias": (channels,),
            "value_weight": (channels, 2 * channels),
            "value_bias": (channels,),
        }
        inputs = {
            name: (torch.randn(shape, generator=draw) / (1 if "words" in name else shape[-1] ** 0.5)).to(self.dtype)
            for name, shape in shapes.items()
        }
        for name, bias in {"word_bias": 4, "image_bias": 4, "key_bias": 16, "value_bias": 16}.items():
            inputs[name] += bias * (-1) ** torch.arange(len(inputs[name]))
        grads = [torch.randn((batch, channels, words), generator=draw).to(self.dtype) for _ in range(2)]

        def refer(dtype: torch.dtype) -> list[Tensor]:
            leaves = {name: x.to(dtype).requires_grad_() for name, x in inputs.items()}
            outputs = reference.memory_write(
                leaves["words"], leaves["image_mean"], reference.MemoryWeights(*list(leaves.values())[2:])
            )
            gradients = torch.autograd.grad(outputs, list(leaves.values()), [grad.to(dtype) for grad in grads])
            return [x.detach() for x in outputs] + list(gradients)

        with sanitized():
            outputs = kernels.memory_write_forward(*inputs.values())
            gradients = kernels.memory_write_backward(*grads, *outputs, *inputs.values())
        names = ["key", "value", *(f"gradient of {name}" for name in inputs)]
        factors = [FORWARD] * 2 + [BACKWARD] * len(inputs)
        ours = [*outputs, *gradients]
        return list(map(Output, names, ours, refer(self.dtype), refer(torch.float64), factors))


WRITES = [Write((1, 5, 7, 1)), Write((2, 32, 48, 18)), Write((3, 48, 33, 7)), Write((2, 40, 64, 33))]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("case", WRITES, ids=lambda case: "x".join(map(str, case.size)))
def test_write_is_as_accurate_as_eager_and_clean_in_the_sanitizer(case: Write, dtype: torch.dtype) -> None:
    assert inaccurate(Write(case.size, dtype).run(memory_write)) == []


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
WRITE_MUTANTS = {
    "off-by-one store": ("b * C * T + c[None, :] * T + t[:, None]", "b * C * T + c[None, :] * T + t[:, None] + 1",
                         "out of bounds|race"),
    "write race": ("c = channel_block * BO +", "c = channel_block * (BO - 1) +", "race"),
    "dropped gate": ("memory = (g * written + (1 - g) * image[None, :])", "memory = (g * written + image[None, :])",
                     None),
    "dropped relu": ("tl.where(written > 0, g * grad_memory, 0.0)", "g * grad_memory", None),
}  # fmt: skip


def assert_caught(case: Read | Write, kernels: ModuleType, fault: str | None) -> None:
    """By the sanitizer with a message that names the fault, else by the numbers."""
    if fault is None:
        assert inaccurate(case.run(kernels))
    else:
        with pytest.raises(InterpreterError, match=fault):
            case.run(kernels)


@pytest.mark.parametrize("name", READ_MUTANTS)
def test_a_fault_in_read_is_caught(name, tmp_path) -> None:
    old, new, fault = READ_MUTANTS[name]
    assert_caught(Read((2, 16, 5, 9, 9)), mutant(memory_read, old, new, tmp_path), fault)


@pytest.mark.parametrize("name", WRITE_MUTANTS)
def test_a_fault_in_write_is_caught(name, tmp_path) -> None:
    old, new, fault = WRITE_MUTANTS[name]
    assert_caught(Write((2, 40, 8, 5)), mutant(memory_write, old, new, tmp_path), fault)
