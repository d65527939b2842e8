"""The fused ops: every argument of every op, results and gradients against the reference in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dmgan_fast import contract, functional, reference
from tools.fuzz.tensors import INF, NAN, Allowed, Signature, compare, copied, disturbed, exact
from tools.fuzz.verdict import Target, Wrong

BACKENDS = {
    "None": None, "auto": "auto", "cpu": "cpu", "reference": "reference", "!aten": "aten", "!cuda": "cuda",
    "!another": "nonsense", "!empty": "", "!a number": 3,
}  # fmt: skip
FLAG = {"True": True, "False": False, "!None": None, "!text": "yes", "!a number": 1}
NORM = {
    "training": FLAG,
    "momentum": {"0.1": 0.1, "0": 0.0, "1": 1, "!None": None, "!nan": NAN, "!text": "a", "!negative": -1.0},
    "eps": {"1e-5": 1e-5, "1": 1, "!0": 0.0, "!negative": -0.5, "!nan": NAN, "!None": None, "!text": "a"},
}
ROWS = {"4": 4, "64": 64, "!3": 3, "!0": 0, "!negative": -1, "!2.5": 2.5, "!text": "8", "!None": None}
GAMMA = {"4": 4.0, "5": 5, "!0": 0.0, "!negative": -1.0, "!nan": NAN, "!inf": INF, "!None": None, "!text": "a"}
OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "memory_write": {},
    "memory_read": {
        "mask_mode": {"paper": "paper", "official": "official", "!another": "none", "!None": None},
        "return_attention": FLAG,
        "return_gate": FLAG,
    },
    "batch_norm_glu": NORM | {"return_mean": FLAG},
    "words_similarity": {"gamma1": GAMMA, "gamma2": GAMMA},
    "tiled_glu": NORM | {"upsample": FLAG, "return_mean": FLAG, "rows": ROWS},
    "tiled_skip": NORM | {"rows": ROWS},
    "folded_conv3x3": {"eps": NORM["eps"], "upsample": FLAG},
}
TRIES = 4  # of arguments moved by roundings
SIZES = {"B": (1, 2, 3), "B'": (1, 2, 3), "C": (1, 2, 3, 5, 8, 17), "T": (1, 2, 5, 9, 33), "H": (1, 2, 5, 6, 8, 17)}


def signature_of(op: contract.Op) -> Signature:
    """How the public function is called, by the contract."""
    inputs = {}
    for name, text in op.inputs.items():
        like = text.removeprefix("like ").partition(",")[0]
        text = op.inputs[like] if text.startswith("like ") else text
        shape, _, kind = text.partition(", ")
        kind = {"lengths": "lengths T", "running_var": "positive"}.get(name.removesuffix("?"), kind.split(" ")[0])
        inputs[name] = f"{shape}, {kind}" if kind else shape
    options = OPTIONS.get(op.name, {}) | {"backend": BACKENDS}
    sizes = {"K": (1, 2, 4), "O": (1, 2, 3, 16)} | ({"I": (1, 2, 3, 16, 20)} if "x" in inputs else {})
    return Signature(inputs, options, sizes)


def _tensors(found: Any) -> list[Tensor]:
    return [found] if isinstance(found, Tensor) else [x for x in found if isinstance(x, Tensor)]


def _truth(name: str, arguments: dict[str, Any]) -> list[Tensor]:
    """The op in plain PyTorch, written once more without tiles."""
    if not name.startswith("tiled"):
        return _tensors(getattr(functional, name)(**arguments | {"backend": "reference"}))
    given = dict(arguments)
    norm = reference.BatchNorm(
        *(given[key] for key in ("weight", "bias", "running_mean", "running_var", "training", "momentum", "eps"))
    )
    if name == "tiled_skip":
        return [reference.tiled_skip(given["x"], given["conv_weight"], norm, given["skip"])]
    options = {"upsample": given["upsample"], "head_weight": given["head_weight"]}
    y = reference.tiled_glu(given["x"], given["conv_weight"], norm, **options)
    return [y, y.mean((2, 3))] if given["return_mean"] else [y]


def _differentiated(run: Callable[[], list[Tensor]], inputs: Mapping[str, Tensor], grad: bool) -> dict[str, Tensor]:
    """Results, and if asked for gradients of a fixed projection of them, by name."""
    for x in inputs.values() if grad else ():
        x.requires_grad_()
    results = run()
    found = {f"result {k}": x for k, x in enumerate(results)}
    if grad:
        random = torch.Generator().manual_seed(0)
        weights = [torch.randn(x.shape, generator=random).to(x.dtype) for x in results]
        given = torch.autograd.grad(results, list(inputs.values()), weights, allow_unused=True)
        found |= {f"gradient of {name}": x for name, x in zip(inputs, given, strict=True) if x is not None}
    return found


def _results(run: Callable[[dict[str, Any]], list[Tensor]], given: dict[str, Any], grad: bool) -> dict[str, Tensor]:
    """What a call gives and what it leaves in running statistics, by name."""
    found = _differentiated(lambda: run(given), _learning(given), grad)
    return found | {name: x for name, x in given.items() if name.startswith("running") and isinstance(x, Tensor)}


def _learning(arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    return {
        name: x
        for name, x in arguments.items()
        if isinstance(x, Tensor) and x.is_floating_point() and not name.startswith("running") and x.is_leaf
    }


def check(op: contract.Op, signature: Signature, case: Mapping[str, Any]) -> None:
    """Call the op; what it accepts must be right."""
    function, arguments = getattr(functional, op.name), signature.build(case)
    own = copied(arguments)
    tensors = [x for x in arguments.values() if isinstance(x, Tensor)]
    if any(x.is_meta for x in tensors):
        _check_without_data(function, own)
        return
    spoilt = {fault for _, fault in case["faults"]}
    # Gradients through infinities depend on the order of operations too.
    grad = case["grad"] and case["values"] not in ("huge", "denormal", "inf") and "-inf" not in spoilt
    found = _results(lambda given: _tensors(function(**given)), own, grad)
    low, wide, allowed = copied(arguments), exact(arguments), Allowed.of(arguments)
    if case["values"] == "huge":  # in some layouts PyTorch sums squares in float64, in others they overflow as here
        low = {name: x.contiguous() if isinstance(x, Tensor) else x for name, x in low.items()}
    plain = partial(_truth, op.name)
    eager, truth = _results(plain, low, grad), _results(plain, wide, grad)
    for name, x in found.items():
        if name not in truth:
            continue
        try:
            compare(name, x, eager[name], truth[name], allowed)
        except Wrong:  # PyTorch may have been lucky: is it more than what roundings of the arguments do to it?
            _compare_with_disturbed(name, x, arguments, plain, grad, truth[name], allowed)


def _compare_with_disturbed(
    name: str,
    x: Tensor,
    arguments: dict[str, Any],
    plain: Callable[..., Any],
    grad: bool,
    truth: Tensor,
    allowed: Allowed,
) -> None:
    eager = [_results(plain, disturbed(arguments, seed), grad)[name].double() for seed in range(TRIES)]
    far = torch.stack([(each - truth).abs() for each in eager]).nan_to_num(posinf=0.0).amax(0)
    compare(name, x, truth + far, truth, allowed)


def _check_without_data(function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    """On tensors without data of any size, results have no data and gradients the inputs' shapes."""
    learning = _learning(arguments)
    for x in learning.values():
        x.requires_grad_()
    results = _tensors(function(**arguments))
    if not all(x.is_meta for x in results):
        raise Wrong("a result of tensors without data has data")
    given = torch.autograd.grad([x.sum() for x in results], list(learning.values()), allow_unused=True)
    for (name, x), gradient in zip(learning.items(), given, strict=True):
        if gradient is not None and gradient.shape != x.shape:
            raise Wrong(f"the gradient of {name} has the shape {list(gradient.shape)}, {name} {list(x.shape)}")


def targets() -> Iterator[Target]:
    """Each op."""
    for op in contract.OPS.values():
        signature = signature_of(op)

        def run(case: Any, op: contract.Op = op, signature: Signature = signature) -> None:
            check(op, signature, case)

        names = (*signature.names, "channels", "evaluation needs", "one value per channel")
        yield Target(op.name, "op", signature.cases(), run, lambda case, names=names: names)
