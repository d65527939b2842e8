"""The memory ops' Triton kernels, run in the sanitizer and compared with float64."""

from dataclasses import dataclass
from types import ModuleType
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from dmgan_fast import reference
from tests.kernels.interpreter import InterpreterError, sanitized  # before anything imports Triton

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


def assert_caught(case: Read | Write, kernels: ModuleType, fault: str | None) -> None:
    """By the sanitizer with a message that names the fault, else by the numbers."""
    if fault is None:
        assert inaccurate(case.run(kernels))
    else:
        with pytest.raises(InterpreterError, match=fault):
            case.run(kernels)
