"""How many kernels a step launches on a GPU: every operator runs on tensors without data, as planned for one.

An operator of PyTorch's that computes counts as one launch, but for those below, which are known to need more or less;
of ours, the kernels that the CUDA library launches. Not counted: kernels that change a layout inside cuDNN, which
``layouts_changed`` counts apart; second passes of split matrix products and large sums; copies of inputs to the GPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import ceil
from typing import Any

import torch
from torch import Tensor

from dmgan_fast.metering.meter import Meter
from dmgan_fast.ops._custom_op import CUSTOM_OPS

aten = torch.ops.aten
# That compute nothing.
FREE = {
    aten.detach,
    aten.lift_fresh,
    aten.empty,
    aten.empty_like,
    aten.empty_strided,
    aten.new_empty,
    aten.new_empty_strided,
    aten._local_scalar_dense,
    aten._unsafe_view,
    aten._reshape_alias,
    aten.record_stream,
    aten.promote_types,
}
# Kernels over lists of tensors take so many tensors at once, by the number of lists, and so many chunks of them
# (MultiTensorApply.cuh).
MOST_TENSORS, MOST_CHUNKS, CHUNK = (110, 64, 48, 36, 30), 320, 1 << 16
GROUP = 16  # kGroup in csrc/cuda/words_similarity.cuh
COPIES = {aten.clone, aten._to_copy, aten.copy_, aten.contiguous}
CONVOLUTIONS = {aten.convolution, aten.convolution_backward}


class Launches(Meter):
    """Counts launches by phase and operator, as ``Meter`` counts memory."""

    def __init__(self) -> None:
        super().__init__("cuda")
        self.launches: dict[str, Counter[str]] = {}
        # By phase and operator: of maps and weights in NCHW, convolutions that change them inside, and copies.
        self.layouts_changed: Counter[str] = Counter()
        self.relaid: Counter[str] = Counter()

    def total(self) -> int:
        """Launches of all phases."""
        return sum(found.total() for found in self.launches.values())

    def by_operator(self) -> Counter[str]:
        """Of all phases together."""
        return sum(self.launches.values(), Counter())

    def _count_call(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        super()._count_call(func, args, kwargs, result)
        packet = func._overloadpacket
        self.launches.setdefault(self.phase, Counter())[str(packet)] += launches_of(func, args, kwargs, result)
        where = f"{self.phase}: {packet.__name__}"
        if packet in CONVOLUTIONS and any(map(is_nchw, args[: 2 if packet is aten.convolution else 3])):
            self.layouts_changed[where] += 1
        if packet in COPIES:
            given, made = args[:2][::-1] if packet is aten.copy_ else (args[0], result)
            self.relaid[where] += is_nchw(given) != is_nchw(made)


def is_nchw(x: Tensor) -> bool:
    """Whether cuDNN has to change its layout before it can run in channels-last: one that is both is not."""
    return x.dim() == 4 and not x.is_contiguous(memory_format=torch.channels_last)


def launches_of(func: Any, args: Any, kwargs: Any, result: Any) -> int:
    """Of a call of an operator."""
    packet = func._overloadpacket
    known = KNOWN.get(packet)
    if known is not None:
        return known(args, kwargs, result)
    op = CUSTOM_OPS.get(func)
    if op is not None:
        return OURS[op.function.name](op, args)
    if func.namespace.startswith("dmgan_fast_"):  # kernels within a tiled op
        return NATIVE.get(func._schema.name.partition("::")[2], 1)
    if packet in FREE or func.is_view or func.namespace in ("prim", "profiler"):
        return 0
    if packet is aten._foreach_copy_ and any(a.stride() != b.stride() for a, b in zip(*args[:2], strict=True)):
        return len(args[0])  # what is laid out otherwise is copied one by one
    if packet.__name__.startswith(("_foreach", "_fused")):
        lists = [each for each in args if isinstance(each, (list, tuple)) and each and isinstance(each[0], Tensor)]
        return launches_over(lists) + (packet is aten._foreach_norm)  # which then joins the chunks of each
    return 1


def launches_over(lists: list[Any]) -> int:
    """Of a kernel over lists of tensors of equal lengths, as PyTorch cuts them."""
    most = MOST_TENSORS[min(len(lists), len(MOST_TENSORS)) - 1]
    launches = tensors = chunks = 0
    for tensor in lists[0]:
        left = ceil(tensor.numel() / CHUNK)
        tensors += 1
        while left:
            taken = min(left, MOST_CHUNKS - chunks)
            left, chunks = left - taken, chunks + taken
            if chunks == MOST_CHUNKS:
                launches, chunks = launches + 1, 0
                tensors = 1 if left else 0
        if tensors == most and chunks:
            launches, chunks, tensors = launches + 1, 0, 0
    return launches + (chunks > 0)


# ------------------------------------------------------------------------------------------------------ what is known


def _convolution(args: Any, kwargs: Any, result: Any) -> int:
    """cuDNN's, and the bias that PyTorch adds."""
    return 1 + (args[2] is not None)


def _convolution_backward(args: Any, kwargs: Any, result: Any) -> int:
    """One for each gradient that is wanted."""
    return sum(map(bool, args[-1]))


def _adam(args: Any, kwargs: Any, result: Any) -> int:
    """Weights, gradients and both moments in one kernel; the scaler's and the counts of steps come apart."""
    return launches_over(list(args[:4]))


def _contiguous(args: Any, kwargs: Any, result: Any) -> int:
    """Nothing for what is laid out so already."""
    return int(result.stride() != args[0].stride())


def _reshaped(args: Any, kwargs: Any, result: Any) -> int:
    """A copy of what is no view."""
    return int(result.untyped_storage()._cdata != args[0].untyped_storage()._cdata)


def _added_product(args: Any, kwargs: Any, result: Any) -> int:
    """A bias is added where the product is written, a whole matrix is copied there before."""
    return 1 + (args[0].shape == result.shape)


Known = Callable[[Any, Any, Any], int]
KNOWN: dict[Any, Known] = {
    aten.convolution: _convolution,
    aten.convolution_backward: _convolution_backward,
    aten._fused_adam_: _adam,
    aten.contiguous: _contiguous,
    aten.reshape: _reshaped,
    aten.flatten: _reshaped,
    aten.addmm: _added_product,
    aten.baddbmm: _added_product,
}


def _norm(op: Any, args: Any) -> int:
    """Moments of strips and their merge, unless they are given, then the result, and the merge of its mean."""
    given = op.argument(args, "mean") is not None
    return (0 if given else 2) + 1 + bool(op.argument(args, "want_mean"))


def _norm_backward(op: Any, args: Any) -> int:
    """Sums of strips, their merge, the gradient; apart from them where processes share."""
    return 3 if op.argument(args, "share") is None else 6


def _groups(op: Any, args: Any) -> int:
    """Captions are taken so many at once."""
    return ceil(len(op.argument(args, "words")) / GROUP)


# By custom op, the kernels that csrc/cuda/*.cuh launch.
OURS: dict[str, Callable[[Any, Any], int]] = {
    "memory_write": lambda op, args: 1,
    "memory_read": lambda op, args: 1,
    "memory_read_backward": lambda op, args: 3,
    "batch_norm_glu": _norm,
    "batch_norm_glu_backward": _norm_backward,
    "batch_norm_glu_shared_statistics": lambda op, args: 2,
    "words_similarity": lambda op, args: 6 * _groups(op, args),
    "words_similarity_backward": lambda op, args: 11 * _groups(op, args),
}
NATIVE = {"batch_norm_glu_statistics": 2, "batch_norm_glu_forward": 1, "batch_norm_glu_reduce": 2}
NATIVE |= {"batch_norm_glu_backward": 3, "relayout": 0}
