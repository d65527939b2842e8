"""Runs an op on a backend and compares results and gradients with float64, in units of the eager result's error."""

import statistics
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dmgan_fast import functional

FORWARD_BUDGET = 2  # times the eager error, for results
GRADIENT_BUDGET = 3  # and for gradients
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass
class Case:
    """``tensors`` in float64; ``fixed``: what is neither cast nor differentiated.

    ``layout``: of the ``pictures`` and of the gradients of results that are images; ``others``: of the other tensors.
    Both are applied after the cast. ``wide``: names that stay float32 in half precision, as batch norm's parameters do
    under autocast.
    """

    op: str
    tensors: dict[str, Tensor]
    fixed: dict[str, Any] = field(default_factory=dict)
    layout: str = "contiguous"
    pictures: tuple[str, ...] = ()
    wide: tuple[str, ...] = ()
    others: str = "contiguous"


def with_odd_strides(x: Tensor) -> Tensor:
    """``x`` with strides of its axes of size 1 that fit nothing, as they mean nothing."""
    return x.as_strided(x.shape, [3 if size == 1 else step for size, step in zip(x.shape, x.stride(), strict=True)])


def tokens(x: Tensor) -> Tensor:
    """``x [B, C, N, 1]`` or ``[B, C, 1, N]`` as transposed and unsqueezed tokens ``[B, N, C]``; other images as rows
    of tokens, which is channels-last.
    """
    rows = x.movedim(1, -1).contiguous().movedim(-1, 1)
    line = 3 if x.shape[3] == 1 else 2
    return rows.squeeze(line).unsqueeze(line) if x.shape[line] == 1 else rows


def offset(x: Tensor) -> Tensor:
    """``x`` in its layout, from the second element of its memory on: aligned to no more than an element."""
    memory = x.new_empty(x.numel() + 1)
    return memory.as_strided(x.shape, x.stride(), 1).copy_(x)


LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "sliced channels": lambda x: torch.cat((x, x), 1)[:, : x.shape[1]],
    "sliced channels of channels_last": lambda x: torch.cat((x, x), 1).contiguous(memory_format=torch.channels_last)[
        :, : x.shape[1]
    ],
    "sliced rows": lambda x: torch.cat((x, x), 2)[:, :, : x.shape[2]],
    "expanded": lambda x: x[:1].expand_as(x),
    "expanded channels": lambda x: x[:, :1].expand_as(x),
    "expanded rows": lambda x: x[:, :, :1].expand_as(x),
    "expanded columns": lambda x: x[..., :1].expand_as(x),
    "one value": lambda x: x[:1, :1, :1, :1].expand_as(x),
    "every other column": lambda x: torch.stack((x, x), -1).flatten(-2)[..., ::2],
    "transposed": lambda x: x.mT.contiguous().mT,
    "tokens": tokens,
    "odd strides": lambda x: with_odd_strides(x.contiguous()),
    "odd strides of channels_last": lambda x: with_odd_strides(x.contiguous(memory_format=torch.channels_last)),
    "offset": lambda x: offset(x.contiguous()),
    "offset channels_last": lambda x: offset(x.contiguous(memory_format=torch.channels_last)),
}
VECTOR_LAYOUTS = {  # of tensors with any number of axes
    "contiguous": lambda x: x.contiguous(),
    "sliced": lambda x: torch.cat((x, x), -1)[..., : x.shape[-1]],
    "flipped axes": lambda x: x.permute(*reversed(range(x.dim()))).contiguous().permute(*reversed(range(x.dim()))),
    "expanded": lambda x: x[..., :1].expand_as(x),
    "odd strides": lambda x: with_odd_strides(x.contiguous()),
    "offset": lambda x: offset(x.contiguous()),
}


def inputs(case: Case, dtype: torch.dtype, device: str) -> dict[str, Tensor]:
    def cast(name: str, x: Tensor) -> Tensor:
        x = x.to(device=device, dtype=torch.float32 if name in case.wide and dtype != torch.float64 else dtype)
        return LAYOUTS[case.layout](x) if name in case.pictures else VECTOR_LAYOUTS[case.others](x)

    return {name: cast(name, x).detach().requires_grad_() for name, x in case.tensors.items()}


def run(case: Case, tensors: dict[str, Tensor], backend: str) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Results, and gradients of a fixed random projection of them."""
    first = next(iter(tensors.values()))
    accumulator = torch.promote_types(first.dtype, torch.float32)

    def place(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value.is_floating_point():
            return value.to(first.device, accumulator, copy=True)
        return VECTOR_LAYOUTS[case.others](value.to(first.device))

    fixed = {name: place(value) for name, value in case.fixed.items()}
    outputs = getattr(functional, case.op)(**tensors, **fixed, backend=backend)
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    generator = torch.Generator().manual_seed(1)

    def projection(y: Tensor) -> Tensor:
        drawn = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.device, y.dtype)
        return LAYOUTS[case.layout](drawn) if y.dim() == 4 and case.pictures else VECTOR_LAYOUTS[case.others](drawn)

    grads = torch.autograd.grad(outputs, list(tensors.values()), [projection(y) for y in outputs])
    running = [value for name, value in fixed.items() if "running" in name and value is not None]
    named = dict(zip(tensors, grads, strict=True))
    if "gate_bias" in named:  # a lone sum of terms that cancel has no scale of its own
        named["gate_weight"] = torch.cat((named["gate_weight"], named.pop("gate_bias")))
    return [*outputs, *running], named


def with_threads(count: int, function: Any, *arguments: Any) -> Any:
    """What ``function(*arguments)`` returns when PyTorch has ``count`` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        return function(*arguments)
    finally:
        torch.set_num_threads(before)


def relative_error(found: Tensor, truth: Tensor) -> float:
    found = found.detach().double().cpu()
    scale = truth.square().mean().sqrt().clamp(min=1e-30)
    return ((found - truth).square().mean().sqrt() / scale).item()


def check(case: Case, dtype: torch.dtype, backend: str, device: str) -> None:
    """Fails unless every result and gradient is within its budget."""
    low = inputs(case, dtype, device)
    exact = {name: x.detach().cpu().double().requires_grad_() for name, x in low.items()}
    truth, true_grads = run(case, exact, "reference")
    eager, eager_grads = run(case, low, "reference")
    found, found_grads = run(case, low, backend)
    wrong = []
    results = zip(found, eager, truth, strict=True)
    gradients = ((found_grads[k], eager_grads[k], true_grads[k]) for k in found_grads)
    names = [*(f"result {k}" for k in range(len(found))), *(f"gradient of {k}" for k in found_grads)]
    compared = [*results, *gradients]
    eager_errors = [relative_error(theirs, true) for _, theirs, true in compared]
    typical = statistics.median(eager_errors)  # a single number may be right by luck in eager
    for k, (name, (ours, theirs, true)) in enumerate(zip(names, compared, strict=True)):
        assert ours.dtype == theirs.dtype, f"{name}: {ours.dtype}, eager {theirs.dtype}"
        assert ours.shape == theirs.shape, f"{name}: {list(ours.shape)}, eager {list(theirs.shape)}"
        budget = FORWARD_BUDGET if k < len(found) else GRADIENT_BUDGET
        allowed = budget * max(eager_errors[k], typical) + torch.finfo(ours.dtype).eps
        error = relative_error(ours, true)
        if not error <= allowed:
            wrong.append(f"{name}: error {error:.2e}, allowed {allowed:.2e}")
    assert not wrong, f"{case.op} on {backend}, {dtype}: " + "; ".join(wrong)
