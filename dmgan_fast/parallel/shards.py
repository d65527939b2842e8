"""Models that processes hold in parts: weights, gradients and what an optimiser remembers, by PyTorch's FSDP2.

FSDP2 gathers weights around a module's forward, and adds gradients up when its backward ends. A step here calls parts
of models, starts backward at the images, and runs a model several times before its optimiser: so each phase says when
it needs a model whole, and the backward of an empty forward adds up what several have accumulated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dmgan_fast.parallel.collectives import exchanging

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

M = TypeVar("M", bound=nn.Module)


class ShardedModel:
    """``model``, of whose parameters each process of ``group`` holds a part, a ``DTensor``; buffers stay whole.

    It takes the place of ``GradientSum``: within ``whole``, ``send`` adds gradients up, each process keeps its part of
    the sums, and an optimiser of the parts does the rest. The class of the model stays what it is.

    All processes make it alike, of models with the same weights.
    """

    def __init__(self, model: nn.Module, group: ProcessGroup) -> None:
        from torch.distributed.device_mesh import DeviceMesh
        from torch.distributed.fsdp import fully_shard

        weight = next(model.parameters())
        self.group = group
        self._nothing = weight.detach().new_zeros(())
        self._outer: Any = fully_shard(_Outer(model), mesh=DeviceMesh.from_group(group, weight.device.type))
        # Losses are parts of the whole batch's, so that gradients are added up; and gloo takes no means.
        self._outer.set_gradient_divide_factor(1.0)
        self._outer.set_force_sum_reduction_for_comms(True)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Within, the model is an ordinary one, with all of its weights. All processes enter together.

        Graphs that were built within are differentiated within too, perhaps another time.
        """
        with exchanging(self.group):
            self._outer.unshard()
        try:
            yield
        finally:
            self._outer.reshard()

    def last_backward(self) -> AbstractContextManager[None]:
        """As of ``GradientSum``; nothing is sent before ``send``."""
        return nullcontext()

    def send(self) -> None:
        """Add up the gradients that ``whole`` has seen; afterwards each parameter's ``grad`` is this process's part."""
        with exchanging(self.group), torch.enable_grad():
            self._outer(self._nothing.clone().requires_grad_()).backward()

    def finish(self) -> None:
        """As of ``GradientSum``; ``send`` has done it."""


class _Outer(nn.Module):
    """What FSDP2 knows: it holds a model, and its forward does nothing."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, nothing: Tensor) -> Tensor:
        return nothing.clone()


def held(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: all of it, unless it is sharded; without gradient."""
    if not hasattr(tensor, "to_local"):
        return tensor
    with torch.no_grad():
        part: Tensor = tensor.to_local()
    return part


def in_parts(owner: object, state: Mapping[str, Any]) -> dict[str, Any]:
    """A state of whole tensors, with this process's parts of those that ``owner`` holds in parts; nothing is exchanged.

    Args:
        owner: a model or an optimiser of its parameters; of anything else the state is left as it is.
        state: for ``owner.load_state_dict``.
    """
    if isinstance(owner, nn.Module):
        own = owner.state_dict()
        return {name: _like(value, own.get(name)) for name, value in state.items()}
    if not isinstance(owner, Optimizer):
        return dict(state)
    parameters = [parameter for group in owner.param_groups for parameter in group["params"]]
    remembered = {
        number: {name: _like(value, parameters[number]) for name, value in values.items()}
        for number, values in state["state"].items()
    }
    return {**state, "state": remembered}


def _like(value: Any, own: Any) -> Any:
    """``value`` sharded as ``own`` is, if it is and they have one shape."""
    if not hasattr(own, "to_local") or hasattr(value, "to_local") or getattr(value, "shape", None) != own.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, own.device_mesh, own.placements, src_data_rank=None)


def whole_copy(model: M) -> M:
    """A copy of a model that is whole at the moment, with tensors of its own; it stays whole."""
    copied = deepcopy(model)
    for module in copied.modules():  # FSDP2 would shard the model whenever the copy is asked for its state
        module._state_dict_pre_hooks.clear()
        module._load_state_dict_pre_hooks.clear()
    return copied
