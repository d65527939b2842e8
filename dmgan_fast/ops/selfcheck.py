"""Whether a backend's kernels are right here: each op on small and odd shapes, results and gradients, against float64.

A GPU, a driver or a compiler may get a kernel wrong that is right elsewhere. ``refusal`` is asked before a GPU's first
kernel of an op and dtype; what it finds is kept in the user's cache folder for that GPU and those versions.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmgan_fast._version import __version__
from dmgan_fast.contract import MEMORY_WRITE, OPS
from dmgan_fast.files import load_json, write_text

VARIABLE = "DMGAN_FAST_SELFCHECK"
AUTOMATIC = ("cuda",)  # types of device whose kernels are checked before their first use
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
FACTOR = 10  # times the error of eager PyTorch in the same dtype: rounding stays well below, faults far above

_log = logging.getLogger("dmgan_fast")
_lock = threading.Lock()
_here = threading.local()  # ``checking`` is set in the threads that check


@dataclass(frozen=True)
class Case:
    """``tensors`` in float64 are cast and differentiated, ``fixed`` are not; ``wide`` stay float32 in sixteen bits."""

    name: str
    tensors: dict[str, Tensor]
    fixed: dict[str, Any] = field(default_factory=dict)
    wide: tuple[str, ...] = ()
    channels_last: bool = False


# -------------------------------------------------------------------------------------------------------------- cases

Rand = Callable[..., Tensor]


def _memory_write(rand: Rand) -> Iterator[Case]:
    for name, sizes in (("small", {"B": 2, "D": 32, "T": 8, "C": 16}), ("odd", {"B": 3, "D": 17, "T": 5, "C": 7})):
        shapes = MEMORY_WRITE.shapes(**sizes)
        yield Case(name, {key: rand(*shape) * shape[-1] ** -0.5 for key, shape in shapes.items()})


def _memory_read(rand: Rand) -> Iterator[Case]:
    plain = {"gate_weight": None, "gate_bias": None}
    for name, batch, channels, height, width, words in (
        ("small", 2, 32, 8, 8, 8),
        ("odd", 3, 5, 3, 7, 7),
        ("without gate", 1, 48, 5, 9, 19),
    ):
        scale = channels**-0.25
        tensors = {
            "h": rand(batch, channels, height, width) * scale,
            "key": rand(batch, channels, words) * scale,
            "value": rand(batch, channels, words),
        }
        gate = {"gate_weight": rand(2 * channels) * scale, "gate_bias": rand(1)} if name != "without gate" else {}
        mask = torch.arange(words) >= torch.arange(words, words - 2 * batch, -2).clamp(min=1)[:, None]
        fixed = {"padding_mask": mask, "return_attention": name == "odd"} | ({} if gate else plain)
        yield Case(name, tensors | gate, fixed, channels_last=name != "small")


def _batch_norm_glu(rand: Rand) -> Iterator[Case]:
    for name, batch, channels, height, width, skip in (
        ("small", 2, 16, 8, 8, 0),
        ("odd", 3, 10, 3, 7, 0),
        ("skip", 2, 12, 5, 7, 12),
    ):
        tensors = {
            "x": rand(batch, channels, height, width) + 0.5,
            "weight": rand(channels) + 1,
            "bias": rand(channels),
        }
        tensors |= {"skip": rand(batch, skip, height, width)} if skip else {}
        fixed = {"running_mean": torch.zeros(channels), "running_var": torch.ones(channels), "training": True}
        fixed |= {"return_mean": name == "odd"}
        yield Case(name, tensors, fixed, wide=("weight", "bias"), channels_last=name == "odd")


def _convolution(side: int, *further: tuple[str, int, int, int, int, int]) -> Callable[[Rand], Iterator[Case]]:
    def cases(rand: Rand) -> Iterator[Case]:
        sizes = ("small", 2, 32, 32, 8, 8), ("odd", 3, 5, 7, 6, 10), *further
        for name, batch, inputs, outputs, height, width in sizes:
            tensors = {
                "x": rand(batch, inputs, height, width),
                "weight": rand(outputs, inputs, side, side) * (side * side * inputs) ** -0.5,
            }
            yield Case(name, tensors, channels_last=name == "odd")

    return cases


def _folded_conv3x3(rand: Rand) -> Iterator[Case]:
    for name, batch, inputs, outputs, height, width, skip in (
        ("small", 2, 16, 32, 8, 8, 0),
        ("odd", 3, 5, 14, 6, 10, 7),
    ):
        tensors = {
            "x": rand(batch, inputs, height, width),
            "conv_weight": rand(outputs, inputs, 3, 3) * (9 * inputs) ** -0.5,
            "weight": rand(outputs) + 1,
            "bias": rand(outputs),
        }
        tensors |= {"skip": rand(batch, skip, height, width)} if skip else {}
        fixed = {"running_mean": torch.zeros(outputs), "running_var": torch.ones(outputs)}
        yield Case(name, tensors, fixed, wide=("weight", "bias"), channels_last=name == "odd")


def _words_similarity(rand: Rand) -> Iterator[Case]:
    for name, images, captions, depth, height, width, words in (
        ("small", 2, 2, 16, 4, 4, 8),
        ("odd", 3, 5, 20, 3, 5, 7),
    ):
        tensors = {
            "regions": rand(images, depth, height, width) * depth**-0.25,
            "words": rand(captions, depth, words) * depth**-0.25,
        }
        lengths = torch.arange(words, words - captions, -1)
        yield Case(name, tensors, {"lengths": lengths, "gamma1": 4.0, "gamma2": 5.0})


CASES: dict[str, Callable[[Rand], Iterator[Case]]] = {
    "memory_write": _memory_write,
    "memory_read": _memory_read,
    "batch_norm_glu": _batch_norm_glu,
    # CPUs run small maps on PyTorch's own kernels.
    "conv3x3": _convolution(3, ("large", 1, 32, 16, 32, 34)),
    "conv4x4_stride2": _convolution(4, ("large", 4, 16, 16, 64, 66)),
    "upsample_conv3x3": _convolution(3),
    "folded_conv3x3": _folded_conv3x3,
    "words_similarity": _words_similarity,
}


# --------------------------------------------------------------------------------------------------------- comparison


def check(op: str, backend: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """None if the backend's kernels of ``op`` are right on that device in that dtype, else what is wrong.

    Runs in a thread of its own, where no mode of the caller (autocast, fake tensors, inference, compilation) applies.

    Raises:
        torch.OutOfMemoryError: if memory ran out, which tells nothing about the kernels.
    """
    found: list[str | None] = []
    failed: list[BaseException] = []

    def work() -> None:
        _here.checking = True
        try:
            found.append(_first_fault(op, backend, device, dtype))
        except torch.OutOfMemoryError as error:
            failed.append(error)
        except Exception as error:  # a kernel that does not compile or launch can raise anything
            found.append(
                f"it raises {type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
            )

    thread = threading.Thread(target=work, name="dmgan_fast selfcheck")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]


def _first_fault(op: str, backend: str, device: torch.device, dtype: torch.dtype) -> str | None:
    generator = torch.Generator().manual_seed(0)

    def rand(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, device="cpu", generator=generator)

    with torch.cuda.device(device if device.type == "cuda" else -1):
        for case in CASES[op](rand):
            fault = _fault(op, case, backend, device, dtype)
            if fault:
                return f"{case.name} shapes: {fault}"
    return None


def _fault(op: str, case: Case, backend: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """The result or gradient that is furthest off, if one is further off than rounding explains."""
    import statistics  # and with it decimal, which would take a sixth of the package's own time to import

    given = {name: _cast(x, case, name, device, dtype) for name, x in case.tensors.items()}
    exact = {name: x.detach().cpu().double().requires_grad_() for name, x in given.items()}
    truth, eager = _run(op, case, exact, "reference"), _run(op, case, given, "reference")
    _poison(device)
    ours = _run(op, case, given, backend)
    errors = {name: relative_error(eager[name], truth[name]) for name in truth}
    typical = statistics.median(errors.values())  # a lone number may be right by luck in eager
    worst = None
    for name, found in ours.items():
        if found.shape != eager[name].shape or found.dtype != eager[name].dtype:
            return f"{name} is {found.dtype} {list(found.shape)}, not {eager[name].dtype} {list(eager[name].shape)}"
        allowed = FACTOR * max(errors[name], typical) + torch.finfo(found.dtype).eps
        error = relative_error(found, truth[name])
        if not error <= allowed and (worst is None or not error <= worst[0]):
            worst = error, f"{name} is off by {error:.1e} of its size, rounding explains {allowed:.1e}"
    return worst[1] if worst else None


def _cast(x: Tensor, case: Case, name: str, device: torch.device, dtype: torch.dtype) -> Tensor:
    x = x.to(device, torch.float32 if name in case.wide else dtype)
    if case.channels_last and x.dim() == 4 and name != "weight":
        x = x.contiguous(memory_format=torch.channels_last)
    return x.detach().requires_grad_()


def _run(op: str, case: Case, tensors: dict[str, Tensor], backend: str) -> dict[str, Tensor]:
    """Results and, of an op that has some, gradients of a fixed projection of them, by name."""
    first = next(iter(tensors.values()))
    wide = torch.promote_types(first.dtype, torch.float32)

    def place(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to(first.device, wide if value.is_floating_point() else value.dtype, copy=True)

    fixed = {name: place(value) for name, value in case.fixed.items()}
    # Not at the top: their choice of a backend asks this module.
    function = getattr(importlib.import_module(f"dmgan_fast.ops.{op}"), op)
    results = function(**tensors, **fixed, backend=backend)
    results = [results] if isinstance(results, Tensor) else list(results)
    named = {f"result {k}": y for k, y in enumerate(results, 1)}
    if not any(each.name == f"{op}_backward" for each in OPS[op].functions):
        return named
    generator = torch.Generator().manual_seed(1)
    projections = [torch.randn(y.shape, generator=generator, dtype=torch.float64, device="cpu") for y in results]
    grads = torch.autograd.grad(
        results, list(tensors.values()), [p.to(y.device, y.dtype) for p, y in zip(projections, results, strict=True)]
    )
    named |= {f"the gradient of {name}": grad for name, grad in zip(tensors, grads, strict=True)}
    if "gate_bias" in tensors:  # a lone sum of terms that cancel has no size of its own
        gate = ("the gradient of gate_weight", "the gradient of gate_bias")
        named[gate[0]] = torch.cat((named[gate[0]], named.pop(gate[1])))
    return named | {name: value for name, value in fixed.items() if name.startswith("running")}


def relative_error(found: Tensor, truth: Tensor) -> float:
    """Root of the mean square of the difference, in units of that of ``truth``."""
    scale = truth.detach().square().mean().sqrt().clamp(min=1e-30)
    return float((found.detach().double().cpu() - truth.detach()).square().mean().sqrt() / scale)


def _poison(device: torch.device) -> None:
    """Memory that is handed out next holds NaN, so that an element which no kernel writes shows."""
    for size in (1 << power for power in range(6, 21, 2)):
        torch.full((size,), torch.nan, device=device)


# -------------------------------------------------------------------------------------------------- verdicts and cache


def refusal(op: str, backend: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """None if the backend may run ``op`` there, else why not; checks what was not checked on such a device before."""
    if device.type not in AUTOMATIC or backend == "reference" or os.environ.get(VARIABLE) == "0":
        return None
    if getattr(_here, "checking", False) or (device.type == "cuda" and torch.cuda.is_current_stream_capturing()):
        return None
    with _lock:
        verdicts = Verdicts(device)
        try:
            return verdicts.reason(op, backend, dtype)
        except torch.OutOfMemoryError:
            _log.info("no memory for the self-check of %s on %s; it runs unchecked", op, backend)
            return None


class Verdicts:
    """What the self-check found on such a device with these versions; kept in the cache folder."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.key = device, what_counts(device)
        name = hashlib.sha256(json.dumps(self.key, sort_keys=True).encode()).hexdigest()[:16]
        self.file = cache_folder() / f"selfcheck-{name}.json"
        self.found = self._read()

    def _read(self) -> dict[str, str | None]:
        try:
            content = load_json(self.file)
            return dict(content["verdicts"]) if content["key"] == self.key else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def reason(self, op: str, backend: str, dtype: torch.dtype) -> str | None:
        """Why the backend must not run ``op``, by an earlier check or one that is done now; None if it may."""
        name = _entry(op, backend, dtype)
        fault = self.found[name] if name in self.found else self.renew(op, backend, dtype)
        if fault is None:
            return None
        return (
            f"the self-check found it wrong on this device in {_name(dtype)}: {fault} "
            f"(`dmgan-fast selfcheck` checks again, {VARIABLE}=0 runs it all the same)"
        )

    def renew(self, op: str, backend: str, dtype: torch.dtype) -> str | None:
        """Check now, and remember what is wrong or that nothing is."""
        fault = check(op, backend, self.device, dtype)
        if fault:
            _log.warning("%s on %s is wrong in %s and passed over: %s", op, backend, _name(dtype), fault)
        self.found = self._read() | {_entry(op, backend, dtype): fault}
        try:
            write_text(self.file, json.dumps({"key": self.key, "verdicts": self.found}, indent=2))
        except OSError as error:
            _log.info("the self-check's verdict can't be kept: %s", error)
        return fault


@dataclass(frozen=True)
class Row:
    """One line of ``check_all``: ``dtype`` is empty where nothing of the op runs, with the reason as ``fault``."""

    backend: str
    device: str
    op: str
    dtype: str
    right: bool | None
    fault: str | None


def check_all(places: Iterable[tuple[str, str]], why_not: Callable[[str, str], str | None]) -> Iterator[Row]:
    """Check all ops anew on backends and types of device; ``why_not(op, backend)``: why it can't run here, or None."""
    for backend, place in places:
        for op in CASES:
            reason = why_not(op, backend)
            if reason or (place == "cuda" and not torch.cuda.is_available()):
                yield Row(backend, place, op, "", None, reason or "PyTorch sees no CUDA device")
                continue
            device = torch.device(place, torch.cuda.current_device()) if place == "cuda" else torch.device(place)
            for dtype in DTYPES:
                kept = place in AUTOMATIC
                fault = Verdicts(device).renew(op, backend, dtype) if kept else check(op, backend, device, dtype)
                yield Row(backend, place, op, _name(dtype), fault is None, fault)


def known_faults() -> dict[str, str]:
    """What earlier checks found wrong on the GPUs here: backend/op/dtype → what."""
    faults: dict[str, str] = {}
    for index in range(torch.cuda.device_count()):
        found = Verdicts(torch.device("cuda", index)).found
        faults |= {f"{name} on GPU {index}": fault for name, fault in found.items() if fault}
    return faults


def _entry(op: str, backend: str, dtype: torch.dtype) -> str:
    return f"{backend}/{op}/{_name(dtype)}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dmgan_fast"


def what_counts(device: torch.device) -> dict[str, str]:
    """All that can make a kernel right or wrong: device, driver, versions, and the kernels' own files."""
    on_gpu = device.type == "cuda" and torch.cuda.is_available()
    driver = getattr(torch._C, "_cuda_getDriverVersion", str)  # of the API that the driver brings
    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = ""
    package = Path(__file__).parents[1]
    kernels = sorted((*package.glob("*.so"), *package.glob("kernels/*.py")))
    states = (f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in kernels)
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else device.type,
        "capability": str(torch.cuda.get_device_capability(device)) if on_gpu else "",
        "driver": str(driver()) if on_gpu else "",
        "torch": torch.__version__,
        "toolkit": torch.version.cuda or torch.version.hip or "",
        "triton": triton,
        "dmgan_fast": __version__,
        "kernels": hashlib.sha256("\n".join(states).encode()).hexdigest()[:16],
    }
