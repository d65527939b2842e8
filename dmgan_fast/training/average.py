"""Exponential average of a model's weights: average ← decay · average + (1 − decay) · weight, after each step."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


class WeightAverage(nn.Module):
    """Average of ``model``, held as a model of its own in ``.module``, in evaluation mode.

    ``buffers=True`` averages running statistics too; ``False`` copies them from the live model, as the authors do.
    Buffers that are not floating point are copied. ``torch.optim.swa_utils.AveragedModel`` reads a counter on the
    device at each update and starts by copying the model after the first step; this does neither.
    """

    def __init__(self, model: nn.Module, decay: float = 0.999, *, buffers: bool = True) -> None:
        super().__init__()
        self.decay = decay
        self.average_buffers = buffers
        # Cloned here, as deepcopy knows no tensors without data, which the planner uses.
        tensors: dict[int, Any] = {id(p): nn.Parameter(p.detach().clone()) for p in model.parameters()}
        tensors |= {id(b): b.clone() for b in model.buffers()}
        self.module = copy.deepcopy(model, tensors).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take one step towards ``model``."""
        average = [parameter.detach() for parameter in self.module.parameters()]
        live = [parameter.detach() for parameter in model.parameters()]
        copies: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}  # by type, as lists of one are one kernel
        for ours, theirs in zip(self.module.buffers(), model.buffers(), strict=True):
            if self.average_buffers and ours.is_floating_point():
                average.append(ours)
                live.append(theirs)
            else:
                to, of = copies.setdefault(ours.dtype, ([], []))
                to.append(ours)
                of.append(theirs)
        for to, of in copies.values():
            torch._foreach_copy_(to, of)
        torch._foreach_lerp_(average, live, 1 - self.decay)
