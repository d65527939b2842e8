"""Tensors that fit a signature, or nearly: sizes, dtypes, strides, devices and values, and what is no such tensor."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from tools.fuzz.verdict import Wrong

SMALL = (1, 2, 3, 4, 5, 7, 8)
HUGE = (1, 3, 1 << 10, 70_000, (1 << 20) + 1)  # of tensors without data
MOST_HUGE = 1 << 50  # product of the sizes
DTYPES = ("float32", "float32", "float32", "float64", "float64", "bfloat16", "float16")
VALUES = ("normal", "normal", "normal", "small", "large", "zero", "nan", "inf", "huge", "denormal")
NAN, INF = float("nan"), float("inf")
# Relative errors that rounding explains in any case; more is measured against PyTorch's own in that dtype.
ROUNDING = {torch.float64: 1e-9, torch.float32: 2e-4, torch.bfloat16: 0.06, torch.float16: 0.01}
TIMES_EAGER = 8
TERMS, MOST = 16, 1e3  # roundings of products that add up where these cancel, and the largest product that counts


class OfOurs(Tensor):
    """A subclass of tensors."""


def _odd_strides(x: Tensor) -> Tensor:
    return x.as_strided(x.shape, [3 if size == 1 else step for size, step in zip(x.shape, x.stride(), strict=True)])


def _offset(x: Tensor) -> Tensor:
    memory = x.new_empty(x.numel() + 1)
    return memory.as_strided(x.shape, x.stride(), 1).copy_(x)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "channels-last": lambda x: x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x,
    "sliced": lambda x: torch.cat((x, x), -1)[..., : x.shape[-1]],
    "sliced channels": lambda x: torch.cat((x, x), 1)[:, : x.shape[1]] if x.dim() > 1 else x,
    "every other": lambda x: torch.stack((x, x), -1).flatten(-2)[..., ::2] if x.dim() else x,
    "axes reversed": lambda x: x.permute(*reversed(range(x.dim()))).contiguous().permute(*reversed(range(x.dim()))),
    "expanded": lambda x: x[:1].expand_as(x),
    "expanded end": lambda x: x[..., :1].expand_as(x),
    "odd strides": lambda x: _odd_strides(x.contiguous()),
    "offset": lambda x: _offset(x.contiguous()),
    "overlapping": lambda x: x.as_strided(x.shape, [min(1, step) for step in x.stride()]),
}


def _resized(axis: int, by: int) -> Callable[[Tensor], Any]:
    def change(x: Tensor) -> Tensor:
        if not x.dim():
            return x[None]
        place = axis % x.dim()
        return torch.cat((x, x.narrow(place, 0, 1)), place) if by > 0 else x.narrow(place, 0, x.shape[place] - 1)

    return change


# What may be given in place of a tensor.
FAULTS: dict[str, Callable[[Tensor], Any]] = {
    "None": lambda x: None,
    "a number": lambda x: 1.0,
    "text": lambda x: "x",
    "a list": lambda x: x.tolist() if not x.is_meta else [1.0],
    "an array": lambda x: np.ones([min(size, 8) for size in x.shape[:2]]),
    "longer": _resized(0, 1),
    "longer channels": _resized(1, 1),
    "longer end": _resized(-1, 1),
    "shorter": _resized(0, -1),
    "shorter channels": _resized(1, -1),
    "shorter end": _resized(-1, -1),
    "an axis less": lambda x: x[0] if x.dim() else x,
    "an axis more": lambda x: x[None],
    "empty": lambda x: x[:0] if x.dim() else x,
    "a scalar": lambda x: x.reshape(-1)[:1].reshape(()),
    "turned": lambda x: x.transpose(0, -1) if x.dim() > 1 else x,
    "int64": lambda x: x.long(),
    "int8": lambda x: x.to(torch.int8),
    "bool": lambda x: x.bool(),
    "complex": lambda x: x.to(torch.complex64),
    "float8": lambda x: x.to(torch.float8_e4m3fn),
    "float16": lambda x: x.to(torch.float16),
    "float64": lambda x: x.double(),
    "on meta": lambda x: x.to("meta"),
    "sparse": lambda x: x.to_sparse() if not x.is_meta else x,
    "nested": lambda x: torch.nested.nested_tensor([x, x]) if not x.is_meta and x.is_floating_point() else x,
    "quantized": lambda x: (
        torch.quantize_per_tensor(torch.ones(tuple(x.shape)), 0.1, 0, torch.qint8) if not x.is_meta else x
    ),
    "negative view": lambda x: torch._neg_view(x) if x.is_floating_point() else x,
    "a subclass": lambda x: x.as_subclass(OfOurs),
    "a parameter": lambda x: nn.Parameter(x.detach()) if x.is_floating_point() else x,
    "nan": lambda x: x.clone().reshape(-1).index_fill(0, torch.tensor([0]), NAN).reshape(x.shape) if _real(x) else x,
    "-inf": lambda x: x.clone().reshape(-1).index_fill(0, torch.tensor([0]), -INF).reshape(x.shape) if _real(x) else x,
}


def _real(x: Tensor) -> bool:
    return x.is_floating_point() and not x.is_meta and x.numel() > 0


@dataclass(frozen=True)
class Signature:
    """How a function is called.

    ``inputs``: by name (``name?``: may be None), letters that stand for sizes and numbers, as in ``contract.Op``; a
    kind may follow: ``bool``, ``integers``, ``indices K`` (below K), ``lengths T``, ``any`` (float32 too),
    ``positive``.
    ``options``: by name, what may be given, by a label. ``sizes``: for letters, other sizes than ``SMALL``.
    """

    inputs: Mapping[str, str]
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    dtypes: tuple[str, ...] = DTYPES
    meta: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """Of inputs and options."""
        return (*(name.removesuffix("?") for name in self.inputs), *self.options)

    @property
    def letters(self) -> list[str]:
        axes = (axis for text in self.inputs.values() for axis in text.partition(",")[0].split())
        return sorted({axis.removeprefix("2") if axis != "2" else axis for axis in axes if not axis.isdigit()})

    def cases(self) -> st.SearchStrategy[dict[str, Any]]:
        """Descriptions of calls."""
        return _cases(self)

    def build(self, case: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments that a case describes."""
        random = torch.Generator().manual_seed(case["seed"])
        faults = dict(case["faults"])
        arguments: dict[str, Any] = {}
        for name, text in self.inputs.items():
            plain = name.removesuffix("?")
            if name.endswith("?") and plain in case["without"]:
                arguments[plain] = None
                continue
            x = _tensor(text, case, random)
            if plain in faults and not (_is_kernel(text) and faults[plain] in ("nan", "-inf")):
                x = FAULTS[faults[plain]](x)
            arguments[plain] = x
        for name, label in case["options"].items():
            arguments[name] = self.options[name][label]
        return arguments


@st.composite
def _cases(draw: Any, signature: Signature) -> dict[str, Any]:
    meta = signature.meta and draw(st.integers(0, 7)) == 7
    sizes = {}
    for letter in signature.letters:
        allowed = HUGE if meta and letter not in signature.sizes else signature.sizes.get(letter, SMALL)
        sizes[letter] = draw(st.sampled_from(allowed))
    while _elements(list(sizes.values())) > MOST_HUGE:  # PyTorch counts bytes in 63 bits
        largest = max(sizes, key=lambda letter: sizes[letter])
        sizes[largest] //= 16
    names = [name.removesuffix("?") for name in signature.inputs]
    spoilt = draw(st.integers(0, 2)) == 2
    faults = (
        draw(st.lists(st.tuples(st.sampled_from(names), st.sampled_from(list(FAULTS))), min_size=1, max_size=2))
        if spoilt
        else []
    )
    optional = [name.removesuffix("?") for name in signature.inputs if name.endswith("?")]
    options = {}
    if signature.options:
        odd = draw(st.integers(0, 3)) == 3
        for name, allowed in signature.options.items():
            usual = [label for label in allowed if not label.startswith("!")]
            options[name] = draw(st.sampled_from(list(allowed) if odd else usual))
    return {
        "sizes": sizes,
        "meta": meta,
        "dtype": draw(st.sampled_from(signature.dtypes)),
        "layout": draw(st.sampled_from(list(LAYOUTS))),
        "values": draw(st.sampled_from(VALUES)),
        "without": draw(st.sampled_from(((), tuple(optional), *((name,) for name in optional)))),
        "faults": faults,
        "options": options,
        "grad": draw(st.booleans()),
        "seed": draw(st.integers(0, 1 << 16)),
    }


def _tensor(text: str, case: Mapping[str, Any], random: torch.Generator) -> Tensor:
    axes, _, kind = text.partition(", ")
    shape = [_size(axis, case["sizes"]) for axis in axes.split()]
    dtype = torch.float32 if kind == "any" and case["seed"] % 2 else getattr(torch, case["dtype"])
    if case["meta"]:
        what = {"bool": torch.bool}.get(kind.split(" ")[0], torch.int64) if _whole(kind) else dtype
        return torch.empty(shape, dtype=what, device="meta")
    if kind == "bool":
        return torch.rand(shape, generator=random) < 0.5
    if kind.startswith(("indices", "lengths", "integers")):
        low, high = (0, int(kind.split()[1])) if kind.startswith("indices") else (0, 4)
        if kind.startswith("lengths"):
            low, high = 1, case["sizes"][kind.split()[1]] + 1
        odd = case["values"] in ("inf", "huge")  # with NaN: a caption without words reads none
        x = torch.randint(low - 2 * odd, high + 2 * odd, shape, generator=random)
        return x.int() if case["seed"] % 5 == 0 else x
    x = _filled(shape, "normal" if _is_kernel(text) and case["values"] in ("nan", "inf") else case["values"], random)
    if kind == "positive":
        x = x.abs()
    return LAYOUTS[case["layout"]](x.to(dtype)) if x.numel() else x.to(dtype)


def _is_kernel(text: str) -> bool:
    """Of a convolution: a tap that meets padding only is multiplied with zero by some, and left out by others."""
    return text.partition(",")[0].split()[-2:] in (["3", "3"], ["4", "4"])


def _whole(kind: str) -> bool:
    return kind.startswith(("bool", "indices", "lengths", "integers"))


def _filled(shape: list[int], values: str, random: torch.Generator) -> Tensor:
    x = torch.randn(shape, generator=random, dtype=torch.float64)
    if values in ("nan", "inf") and x.numel():
        place = int(torch.randint(x.numel(), (), generator=random))
        x.view(-1)[place] = NAN if values == "nan" else INF
    return x * {"small": 1e-3, "large": 5.0, "zero": 0.0, "huge": 1e30, "denormal": 1e-41}.get(values, 1.0)


def _size(axis: str, sizes: Mapping[str, int]) -> int:
    if axis.isdigit():
        return int(axis)
    return sizes[axis] if axis in sizes else 2 * sizes[axis.removeprefix("2")]


def _elements(shape: list[int]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


# --------------------------------------------------------------------------------------------------------- comparisons


def exact(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The same arguments in float64, plain and dense."""

    def wide(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        x = x.detach().as_subclass(Tensor).clone(memory_format=torch.contiguous_format)
        return x.double() if x.is_floating_point() else x

    return {name: wide(x) for name, x in arguments.items()}


def disturbed(arguments: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The same arguments, moved by roundings of their dtype.

    In a map or a kernel those of its largest number, as convolutions by fewer products round.
    """
    random = torch.Generator().manual_seed(seed)
    moved = exact(arguments)
    for name, x in arguments.items():
        if isinstance(x, Tensor) and x.is_floating_point():
            step = torch.finfo(x.dtype).eps * (2 * torch.rand(x.shape, generator=random, dtype=torch.float64) - 1)
            moved[name] = (moved[name] + step * (_largest(moved[name]) if x.dim() > 2 else moved[name])).to(x.dtype)
    return moved


def copied(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The same arguments, so that what is updated in place is nobody else's."""

    def copy(x: Any) -> Any:
        return x.detach().clone() if isinstance(x, Tensor) and not x.is_meta else x

    return {name: copy(x) for name, x in arguments.items()}


class Allowed(NamedTuple):
    """What may differ from the truth.

    ``rounding``: of the coarsest dtype that was given, relative. ``absolute``: what sums of products of two operands
    are rounded by, which counts where terms cancel. ``nan_given``: a NaN of the truth comes from a NaN, else from
    infinities (0 × inf), where it depends on the order of operations.
    """

    rounding: float
    absolute: float
    nan_given: bool

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Allowed:
        """Of a call."""
        training = arguments.get("training") is True  # which does not read running statistics
        used = [value for name, value in arguments.items() if not (training and name.startswith("running"))]
        floats = [x for x in tree_leaves(used) if isinstance(x, Tensor) and x.is_floating_point() and not x.is_meta]
        rounding = max((ROUNDING.get(x.dtype, 0.0) for x in floats), default=0.0)
        operands = sorted(max(1.0, _largest(x)) for x in floats if x.dtype in ROUNDING)  # float8 tells no isfinite
        coarsest = max((torch.finfo(x.dtype).eps for x in floats), default=0.0)
        exact = coarsest < 1e-6  # results in sixteen bits are rounded anyway
        absolute = TERMS * coarsest * min(math.prod(operands[-2:]), MOST) if exact else 0.0
        return cls(rounding, absolute, any(bool(x.isnan().any()) for x in floats))


def _largest(x: Tensor) -> float:
    """The largest finite magnitude; 0 if there is none."""
    plain = x.detach().as_subclass(Tensor)
    return float(plain[plain.isfinite()].abs().max()) if plain.isfinite().any() else 0.0


def compare(what: str, found: Tensor, eager: Tensor, truth: Tensor, allowed: Allowed) -> None:
    """Compare a result with the truth in float64, and its error with that of PyTorch's own operations.

    Raises:
        Wrong: if a number stands where both others have none, or is another one.
    """
    if found.shape != truth.shape:
        raise Wrong(f"{what} has the shape {list(found.shape)}, the reference {list(truth.shape)}")
    if not found.is_floating_point():
        return
    rounding = max(allowed.rounding, ROUNDING[found.dtype])
    found, eager, truth = (x.detach().as_subclass(Tensor).double() for x in (found, eager, truth))
    lost = found.isfinite() & ~eager.isfinite() & ~truth.isfinite()
    if not allowed.nan_given:
        lost &= ~eager.isnan() & ~truth.isnan()
    if lost.any():
        place = lost.nonzero()[0].tolist()
        raise Wrong(f"{what}{place} is {float(found[tuple(place)])}, where the reference has no number")
    all_here = found.isfinite() & eager.isfinite() & truth.isfinite()
    if not all_here.any():
        return
    found, eager, truth = (x[all_here] for x in (found, eager, truth))
    scale = float(truth.abs().max().clamp(min=1e-3))
    error, usual = float((found - truth).abs().max()) / scale, float((eager - truth).abs().max()) / scale
    if error > max(rounding, TIMES_EAGER * usual, allowed.absolute / scale):
        raise Wrong(f"{what} is off by {error:.2e} of the largest value; PyTorch's own operations by {usual:.2e}")
