"""What must hold at a call for a fast forward to run; else the module's own forward does, and nobody sees a change.

Hooks on a module inside a fused block would not run, another module put in its place would not be called, and traces
and exports should hold plain operators.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as _module

from dmgan_fast.compat.patching.classes import plain_class

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def skippable(*modules: nn.Module) -> bool:
    """Whether nobody notices if these modules are not called."""
    return not _module._has_any_global_hook() and not any(getattr(each, hooks) for each in modules for hooks in _HOOKS)


def takes(x: Any, weight: Tensor | None = None, dimensions: int = 4) -> bool:
    """Whether ``x`` is a plain tensor of so many dimensions that fits ``weight``, outside of traces and exports."""
    return (
        type(x) in (Tensor, nn.Parameter)
        and (torch.compiler.is_compiling() or not torch._C._functorch.is_functorch_wrapped_tensor(x))  # as vmap has
        and not torch.jit.is_tracing()  # type: ignore[attr-defined]  # public, but not by mypy's rule
        and not torch.compiler.is_exporting()
        and x.dim() == dimensions
        and x.numel() > 0
        and x.is_floating_point()
        and (weight is None or (x.device == weight.device and _one_dtype(x, weight)))
    )


def _one_dtype(x: Tensor, weight: Tensor) -> bool:
    return x.dtype == weight.dtype or torch.is_autocast_enabled(x.device.type)


def is_conv(module: Any, kernel: int, stride: int, padding: int) -> bool:
    """An ``nn.Conv2d`` of that geometry and no other feature."""
    return (
        isinstance(module, nn.Conv2d)
        and plain_class(module) is nn.Conv2d
        and has_geometry(module, kernel, stride, padding)
        and "weight" in module._parameters
    )


def has_geometry(conv: nn.Conv2d, kernel: int, stride: int, padding: int) -> bool:
    return (
        conv.kernel_size == (kernel, kernel)
        and conv.stride == (stride, stride)
        and conv.padding in ((padding, padding), padding)
        and conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.padding_mode == "zeros"
    )


def is_norm(module: Any, kind: type[nn.Module] = nn.BatchNorm2d) -> bool:
    """A batch norm of PyTorch's, untouched."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and plain_class(module) is kind


def is_doubling(module: Any) -> bool:
    """``nn.Upsample`` by 2 to the nearest pixel."""
    return (
        isinstance(module, nn.Upsample)
        and plain_class(module) in (nn.Upsample, nn.UpsamplingNearest2d)
        and module.mode == "nearest"
        and module.size is None
        and module.scale_factor in (2, (2, 2))
    )


def own_tensors(module: nn.Module) -> bool:
    """Whether the module itself has parameters or buffers."""
    return any(each is not None for each in (*module._parameters.values(), *module._buffers.values()))
