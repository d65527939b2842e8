"""Memory and arithmetic of a step without data: every operator runs on fake tensors, storages are counted while alive.

What an operator allocates and frees inside itself shows in no result. On CPUs that is, above all, oneDNN's copies into
its blocked layout; ``_temporary`` knows them. Our ops that are Python inside are opened and run on the fake tensors.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from dmgan_fast import ops

KINDS = ("weights", "optimiser", "gradients", "batch", "saved", "temporary")
BLOCK = 16  # channels of oneDNN's blocked layout
# Within an op's body these arrive whole; elsewhere autograd has taken them apart into aten.convolution.
BELOW_AUTOGRAD = {torch.ops.aten.conv2d, torch.ops.aten.conv_transpose2d}


class Meter(TorchDispatchMode):
    """Counts bytes by kind, their peak, and floating point operations, of what runs within it.

    ``device_type``: the device that is planned for; the tensors themselves are on the CPU.
    """

    def __init__(self, device_type: str = "cpu") -> None:
        super().__init__()
        self.device_type = device_type
        self.flops = 0
        self.now: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self._kinds: dict[int, str] = {}  # storage → kind
        self._alive: dict[int, Any] = {}

    def mark(self, tensors: Iterable[Tensor], kind: str) -> None:
        """Count the tensors' storages as ``kind``."""
        for tensor in tensors:
            self._count(tensor, kind)

    def reset_peak(self) -> None:
        self.peak = Counter(self.now)
        self.flops = 0

    @contextmanager
    def watching(self, models: Iterable[nn.Module]) -> Iterator[None]:
        """Within, gradients of the models' parameters and tensors kept for backward are told from temporaries."""
        hooks = [
            parameter.register_post_accumulate_grad_hook(lambda p: self._count(p.grad, "gradients"))
            for model in models
            for parameter in model.parameters()
            if parameter.requires_grad
        ]

        def keep(tensor: Tensor) -> Tensor:
            if self._kinds.get(tensor.untyped_storage()._cdata) == "temporary":
                self._count(tensor, "saved")
            return tensor

        try:
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), self:
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        body = ops.BODIES.get(func)
        if body is not None and (self.device_type == "cpu" or "tiled" in func.name()):
            with self:
                return body(*args, **kwargs)
        if func._overloadpacket in BELOW_AUTOGRAD:
            with self:
                return func.decompose(*args, **kwargs)
        result = func(*args, **kwargs)
        inside = _temporary(func, args, result) if self.device_type == "cpu" else 0
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self._kinds:
                self._count(tensor, "temporary")
        self._note_peak(inside)
        if func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **kwargs, out_val=result)
        return result

    def _count(self, tensor: Tensor | None, kind: str) -> None:
        if tensor is None:
            return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._kinds:
            self.now[self._kinds[key]] -= size
        else:
            self._alive[key] = weakref.ref(storage, lambda _: self._free(key, size))
        self._kinds[key] = kind
        self.now[kind] += size
        self._note_peak()

    def _free(self, key: int, size: int) -> None:
        self.now[self._kinds.pop(key)] -= size
        del self._alive[key]

    def _note_peak(self, inside: int = 0) -> None:
        if self.now.total() + inside > self.peak.total():
            self.peak = Counter(self.now)
            self.peak["temporary"] += inside


# ------------------------------------------------------------------------------------------------- inside operators


def _temporary(func: Any, args: Any, result: Any) -> int:
    """Bytes that an operator holds on a CPU beside its inputs and results."""
    if func is torch.ops.aten.convolution.default:
        return _blocked_forward(args[0], args[1], result)
    if func is torch.ops.aten.convolution_backward.default:
        return _blocked_backward(args[0], args[1], args[2], result)
    return 0


def _blocked(x: Tensor, *, produced: bool = False) -> int:
    """Bytes of a copy of NCHW ``x`` in oneDNN's blocked layout; channels-last and pictures are taken as they are."""
    channels = x.shape[1]
    if x.dim() != 4 or x.is_contiguous(memory_format=torch.channels_last) or (channels <= 3 and not produced):
        return 0
    return x.nbytes // channels * (-(-channels // BLOCK) * BLOCK)


def _blocked_forward(x: Tensor, weight: Tensor, y: Tensor) -> int:
    return _blocked(x) + _blocked(y, produced=True) + weight.nbytes


def _blocked_backward(grad: Tensor, x: Tensor, weight: Tensor, result: Any) -> int:
    """The larger of both gradients' copies; the gradient of x is there when the weight's begins."""
    both = _blocked(grad, produced=True) + _blocked(x)
    of_x = both + weight.nbytes if result[0] is not None else 0
    of_weight = both + 2 * weight.nbytes if result[1] is not None else 0
    return max(of_x - (0 if result[1] is None else result[1].nbytes), of_weight)
