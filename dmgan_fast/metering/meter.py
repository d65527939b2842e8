"""Memory and arithmetic of a step without data: every operator runs on fake tensors, storages are counted while alive.

What an operator allocates and frees inside itself shows in no result; of convolutions ``scratch`` knows it on CPUs and
``cuda`` on GPUs, where tensors also count as the blocks that they lie in.
Our ops that are Python inside are opened and run on the fake tensors.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import flop_registry

from dmgan_fast.devices import planned_for
from dmgan_fast.metering.cuda import block_bytes, workspace_bytes
from dmgan_fast.metering.dataless import CPU, Dataless, Unfit, signature
from dmgan_fast.metering.scratch import bytes_inside
from dmgan_fast.ops._custom_op import CUSTOM_OPS, CustomOp
from dmgan_fast.ops._tiles import Tile, every_tile

KINDS = ("weights", "optimiser", "gradients", "batch", "saved", "temporary")
SAVED, TEMPORARY = KINDS.index("saved"), KINDS.index("temporary")
# Within an op's body these arrive whole; elsewhere autograd has taken them apart into aten.convolution.
BELOW_AUTOGRAD = {torch.ops.aten.conv2d, torch.ops.aten.conv_transpose2d}


class Meter(Dataless):
    """Counts bytes by kind, their peak, and floating point operations, of what runs within it.

    ``device_type``: the device that is planned for; the tensors themselves say that they are on the CPU. ``by_trial``:
    on a GPU cuDNN chooses its kernels by trial.
    """

    def __init__(self, device_type: str = "cpu", *, by_trial: bool = False) -> None:
        super().__init__()
        self.device_type, self.by_trial = device_type, by_trial
        # By phase, as torch.profiler.record_function names it: operations; bytes by kind after every allocation.
        self.flops: Counter[str] = Counter()
        self.events: dict[str, list[tuple[int, ...]]] = {}
        self.phase = ""
        self._now = [0] * len(KINDS)
        self._kinds: dict[int, int] = {}  # storage → kind
        self._alive: dict[int, Any] = {}
        self._known_flops: dict[Any, int] = {}
        self._plans: list[AbstractContextManager[None]] = []  # of the contexts that this one has entered

    def mark(self, tensors: Iterable[Tensor], kind: str) -> None:
        """Count the tensors' storages as ``kind``."""
        for tensor in tensors:
            self._count(tensor, KINDS.index(kind))

    @property
    def now(self) -> Counter[str]:
        """Bytes by kind that are alive."""
        return Counter(dict(zip(KINDS, self._now, strict=True)))

    @property
    def peak(self) -> Counter[str]:
        """Bytes by kind when most were alive."""
        events = [event for phase in self.events.values() for event in phase]
        return Counter(dict(zip(KINDS, max(events, key=sum), strict=True))) if events else self.now

    def reset(self) -> None:
        """Forget what happened, but not what is alive."""
        self.events, self.flops, self.phase = {}, Counter(), ""

    @contextmanager
    def watching(self, models: Iterable[nn.Module]) -> Iterator[None]:
        """Within, gradients of the models' parameters and tensors saved for backward are told from temporaries."""

        def mark(parameter: Tensor) -> None:
            if parameter.grad is not None:  # as it is of weights held together, where another's part is differentiated
                self.mark([parameter.grad], "gradients")

        hooks = [
            parameter.register_post_accumulate_grad_hook(mark)
            for model in models
            for parameter in model.parameters()
            if parameter.requires_grad
        ]

        def keep(tensor: Tensor) -> Tensor:
            if self._kinds.get(tensor.untyped_storage()._cdata) == TEMPORARY:
                self._count(tensor, SAVED)
            return tensor

        try:
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), self:
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:
            return CPU
        kwargs = kwargs or {}
        if func is torch.ops.profiler._record_function_enter_new.default and not args[0].startswith("Optimizer."):
            self.phase = args[0]
        op = CUSTOM_OPS.get(func)
        if op is not None and "rows" in op.parameters:
            return self._run_tiled(op, args)
        if op is not None and _is_python(op, args):
            with self:
                return op.kernel(*args, **kwargs)
        if func._overloadpacket in BELOW_AUTOGRAD:
            with self:
                return func.decompose(*args, **kwargs)
        result = super().__torch_dispatch__(func, types, args, kwargs)
        self._count_call(func, args, kwargs, result)
        return result

    def _count_call(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """What an operator that has run allocated and computed."""
        on_gpu = self.device_type != "cpu"
        inside = workspace_bytes(func, args, result, self.by_trial) if on_gpu else bytes_inside(func, args, result)
        if func in CUSTOM_OPS:
            inside += CUSTOM_OPS[func].copied_bytes(args)
        if self._count_new(result) or inside:
            *others, temporary = self._now
            self.events.setdefault(self.phase, []).append((*others, temporary + inside))
        if func._overloadpacket in flop_registry:
            self.flops[self.phase] += self._flops_of(func, args, kwargs, result)

    def __enter__(self) -> Any:
        plan = planned_for(self.device_type)
        plan.__enter__()
        self._plans.append(plan)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._plans.pop().__exit__(None, None, None)

    def _run_tiled(self, op: CustomOp, args: Any) -> Any:
        """A few tiles stand for all."""
        x, rows = op.argument(args, "x"), op.argument(args, "rows")
        before = self.flops[self.phase]
        with self:
            result = op.kernel(*args, visit=few_tiles)
        visited = self.flops[self.phase] - before
        self.flops[self.phase] = before + int(visited * _rows(every_tile(x, rows)) / _rows(few_tiles(x, rows)))
        return result

    def _flops_of(self, func: Any, args: Any, kwargs: Any, result: Any) -> int:
        try:
            key = func, signature(args), signature(tuple(kwargs.items()))
        except Unfit:
            return int(flop_registry[func._overloadpacket](*args, **kwargs, out_val=result))
        if key not in self._known_flops:
            self._known_flops[key] = int(flop_registry[func._overloadpacket](*args, **kwargs, out_val=result))
        return self._known_flops[key]

    def _count_new(self, result: Any) -> bool:
        """Count what of the result is new; whether anything is."""
        if isinstance(result, Tensor):
            new = result.untyped_storage()._cdata not in self._kinds
            if new:
                self._count(result, TEMPORARY)
            return new
        return isinstance(result, (tuple, list)) and sum(map(self._count_new, result)) > 0

    def _count(self, tensor: Tensor, kind: int) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if self.device_type != "cpu":
            size = block_bytes(size)
        if key in self._kinds:
            self._now[self._kinds[key]] -= size
        else:
            self._alive[key] = weakref.ref(storage, lambda _: self._free(key, size))
        self._kinds[key] = kind
        self._now[kind] += size

    def _free(self, key: int, size: int) -> None:
        self._now[self._kinds.pop(key)] -= size
        del self._alive[key]


def _is_python(op: CustomOp, args: Any) -> bool:
    """Whether what the call's backend runs is written in operators of PyTorch's."""
    backend = op.argument(args, "backend")
    if op.op.python:
        return backend in ("aten", "cpu")
    return (op.function.name, backend) == ("memory_write_backward", "cuda")


def few_tiles(x: Tensor, rows: int) -> list[Tile]:
    """The first and the last: without data, the others need the same as the first."""
    tiles = every_tile(x, rows)
    return [tiles[0], tiles[-1]] if len(tiles) > 2 else tiles


def _rows(tiles: list[Tile]) -> int:
    return sum(tile.last - tile.first for tile in tiles)
