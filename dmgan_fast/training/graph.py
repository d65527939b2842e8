"""A training step as one CUDA graph: thousands of small launches become one.

A graph replays the same kernels on the same memory, so batches are copied into fixed buffers, captions are padded to a
few lengths, and each combination of shapes has its own graph, after steps that run as ever while memory, optimisers
and cuDNN's choices settle. All steps learn. **Unverified on GPU**: tests run everything but CUDA's own capture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only

WARM_UP = 3  # steps before a capture, as PyTorch asks for
WORD_BUCKET = 6  # captions are padded to a multiple of so many words

Inputs = dict[str, Any]  # tensors, lists of tensors, None
Metrics = dict[str, Tensor]
Step = Callable[[Inputs], Metrics]
# Captures a step on fixed inputs: what replays it, and where its metrics will lie.
Capture = Callable[[Callable[[], Metrics]], tuple[Callable[[], None], Metrics]]


class CudaCapture:
    """Captures into one pool of memory: replays take turns and begin from what lies outside it, so that a graph may
    overwrite what another left there.
    """

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, step: Callable[[], Metrics]) -> tuple[Callable[[], None], Metrics]:
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # Only this thread's calls count: the loader's thread may pin memory meanwhile. The default generator is
        # registered, so that every replay generates anew.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            metrics = step()
        return graph.replay, metrics


def pad_words(inputs: Inputs, multiple: int = WORD_BUCKET) -> Inputs:
    """``words [B, D, T]`` and ``padding_mask [B, T]`` with T raised to a multiple; the new words are padding."""
    more = -inputs["words"].shape[2] % multiple
    if not more:
        return inputs
    mask = F.pad(inputs["padding_mask"], (0, more), value=True)
    return inputs | {"words": F.pad(inputs["words"], (0, more)), "padding_mask": mask}


@dataclass
class _Shape:
    """One combination of shapes."""

    buffers: Inputs
    steps: int = 0
    replay: Callable[[], None] | None = None
    metrics: Metrics = field(default_factory=dict)


class StepGraphs:
    """Runs ``step`` on the inputs it is called with, from a graph once there is one for their shapes.

    ``capture``: makes what captures all graphs until they are forgotten.
    """

    def __init__(self, step: Step, *, capture: Callable[[], Capture] = CudaCapture) -> None:
        self._step = step
        self._new_capture = capture
        self.clear()

    def clear(self) -> None:
        """Forget all graphs: what they hold has moved or changed."""
        self._shapes: dict[Any, _Shape] = {}
        self._capture = self._new_capture()  # a pool goes with its last graph

    def __call__(self, inputs: Inputs) -> Metrics:
        inputs = pad_words(inputs)
        key = _signature(inputs)
        if key not in self._shapes:
            self._shapes[key] = _Shape(tree_map_only(Tensor, torch.clone, inputs))
        shape = self._shapes[key]
        _copy(inputs, shape.buffers)
        if shape.replay is None and shape.steps < WARM_UP:
            shape.steps += 1
            return self._step(shape.buffers)
        if shape.replay is None:
            shape.replay, shape.metrics = self._capture(lambda: self._step(shape.buffers))
        shape.replay()
        return {name: value.clone() for name, value in shape.metrics.items()}


def _signature(inputs: Inputs) -> Any:
    """Hashable: the structure; shapes, dtypes and devices."""
    leaves, structure = tree_flatten(inputs)
    return str(structure), *((tuple(x.shape), x.dtype, x.device) if isinstance(x, Tensor) else x for x in leaves)


def _copy(source: Inputs, target: Inputs) -> None:
    for one, other in zip(tree_leaves(source), tree_leaves(target), strict=True):
        if isinstance(other, Tensor):
            other.copy_(one)
