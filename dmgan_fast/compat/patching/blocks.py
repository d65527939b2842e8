"""Convolutions, batch norm → GLU, up-blocks and residual blocks in others' code."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from dmgan_fast import functional
from dmgan_fast.compat.patching import alike
from dmgan_fast.compat.patching.classes import FastForward, plain_class
from dmgan_fast.compat.patching.guards import has_geometry, is_conv, is_doubling, is_norm, own_tensors, skippable, takes
from dmgan_fast.compat.patching.rules import Found, Options, Refused
from dmgan_fast.modules.blocks import apply_norm

# ------------------------------------------------------------------------------------------------------- convolutions


def convolve(conv: nn.Conv2d, x: Tensor, weight: Tensor, *, fast: bool = True) -> Tensor:
    """``conv`` of ``x`` with another ``weight`` of its shape."""
    if fast and has_geometry(conv, 3, 1, 1):
        return functional.conv3x3(x, weight, conv.bias)
    if fast and has_geometry(conv, 4, 2, 1):
        return functional.conv4x4_stride2(x, weight, conv.bias)
    return F.conv2d(x, weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def _conv3x3(own: FastForward, self: nn.Conv2d, input: Tensor) -> Any:
    if is_conv(self, 3, 1, 1) and takes(input, self.weight):
        return functional.conv3x3(input, self.weight, self.bias)
    return own(self, input)


def _conv4x4(own: FastForward, self: nn.Conv2d, input: Tensor) -> Any:
    if is_conv(self, 4, 2, 1) and takes(input, self.weight):
        return functional.conv4x4_stride2(input, self.weight, self.bias)
    return own(self, input)


def recognise_conv(module: nn.Module, options: Options) -> Found | Refused | None:
    if not options.convolutions or not isinstance(module, nn.Conv2d):
        return None
    if is_conv(module, 3, 1, 1):
        return Found("3×3 convolution", _conv3x3, "conv3x3")
    if is_conv(module, 4, 2, 1):
        return Found("4×4 convolution with stride 2", _conv4x4, "conv4x4_stride2")
    if plain_class(module) is not nn.Conv2d:
        return Refused("convolution", f"its class {type(module).__name__} is not nn.Conv2d")
    if "weight" not in module._parameters:
        return Refused("convolution", "its weight is computed by somebody else (weight norm, spectral norm, pruning)")
    return Refused("convolution", "no kernel here is for its size, stride or padding; PyTorch's own runs it")


# ---------------------------------------------------------------------------------------------------------------- GLU


def why_no_glu(module: nn.Module) -> str | None:
    """None if the module is a gated linear unit over the channels, whatever its class, else the reason."""
    if plain_class(module) is nn.GLU:
        return None if module.dim in (1, -3) else f"it gates along dimension {module.dim}, not along the channels"
    if own_tensors(module) or module._modules:
        return "it holds more than a GLU does"
    return alike.remembered(module, "GLU", lambda: _why_no_gating(module))


def _why_no_gating(module: nn.Module) -> str | None:
    for shape in ((2, 6, 3, 5), (3, 8)):
        reason = alike.why_differ(module, alike.call, lambda m, x: F.glu(x, 1), [alike.random(*shape)])
        if reason:
            return f"it is no GLU over the channels: {reason}"
    return None


def normed_glu(norm: Any, glu: nn.Module, x: Any) -> Any:
    """``glu(norm(x))``."""
    flat = is_norm(norm, nn.BatchNorm1d) and takes(x, dimensions=2)
    fits = (flat or (is_norm(norm) and takes(x))) and x.shape[1] == norm.num_features and x.shape[1] % 2 == 0
    if not (fits and skippable(norm, glu)) or (norm.training and x.numel() == x.shape[1]):
        return glu(norm(x))
    y = apply_norm(norm, functional.batch_norm_glu, x[:, :, None, None] if flat else x)
    return y[:, :, 0, 0] if flat else y


# ---------------------------------------------------------------------------------------------------------- sequences

Segment = tuple[str, int]  # what, and the place of its first module


def _segments(children: list[nn.Module], options: Options) -> tuple[list[Segment], str | None]:
    """The parts of a sequence, and why a norm before what might be a GLU is left alone."""
    segments: list[Segment] = []
    reason, place = None, 0
    while place < len(children):
        one, next_one = children[place], children[place + 1] if place + 1 < len(children) else None
        kind = "call"
        if options.upsample and is_doubling(one) and is_conv(next_one, 3, 1, 1):
            kind = "up"
        elif options.batch_norm_glu and next_one is not None and _may_gate(one, next_one):
            why = why_no_glu(next_one)
            kind, reason = ("glu", reason) if why is None else ("call", why)
        segments.append((kind, place))
        place += 1 if kind == "call" else 2
    return segments, reason


def _may_gate(norm: nn.Module, after: nn.Module) -> bool:
    """Whether ``after`` a norm may be a GLU: PyTorch's, or a class of somebody's without tensors."""
    if not (is_norm(norm) or is_norm(norm, nn.BatchNorm1d)):
        return False
    kind = plain_class(after)
    foreign = not kind.__module__.startswith("torch.") and not own_tensors(after) and not after._modules
    return kind is nn.GLU or foreign


def _run_sequence(
    segments: tuple[Segment, ...], kinds: tuple[type, ...], own: FastForward, self: nn.Module, input: Any
) -> Any:
    children: list[Any] = list(self._modules.values())
    if tuple(map(plain_class, children)) != kinds:
        return own(self, input)
    x = input
    for kind, place in segments:
        if kind == "glu":
            x = normed_glu(children[place], children[place + 1], x)
        elif kind == "up":
            x = _doubled(children[place], children[place + 1], x)
        else:
            x = children[place](x)
    return x


def _doubled(doubling: nn.Module, conv: Any, x: Any) -> Any:
    """``conv(doubling(x))``."""
    fits = is_doubling(doubling) and is_conv(conv, 3, 1, 1) and skippable(doubling, conv)
    if not (fits and takes(x, conv.weight)):
        return conv(doubling(x))
    y = functional.upsample_conv3x3(x, conv.weight)
    return y if conv.bias is None else y + conv.bias.to(y.dtype)[:, None, None]


NAMES = {
    ("up",): "nearest ×2 → 3×3 convolution",
    ("glu",): "batch norm → GLU",
    ("up", "glu"): "up-block: nearest ×2 → 3×3 convolution → batch norm → GLU",
}


def recognise_sequence(module: nn.Module, options: Options) -> Found | Refused | None:
    if not isinstance(module, nn.Sequential) or plain_class(module).forward is not nn.Sequential.forward:
        return None
    children = list(module)
    segments, reason = _segments(children, options)
    fused = [(kind, place) for kind, place in segments if kind != "call"]
    if not fused:
        return None if reason is None else Refused("batch norm before an activation", reason)
    kinds = tuple(map(plain_class, children))
    what = NAMES.get(tuple(kind for kind, _ in fused)) or ", ".join(NAMES[kind,] for kind, _ in fused)
    covers = tuple(children[place + k] for _, place in fused for k in (0, 1))
    fast = partial(_run_sequence, tuple(segments), kinds)
    return Found(what, fast, ("sequence", tuple(segments), kinds), covers)


# ---------------------------------------------------------------------------------------------------- residual blocks


def residual_parts(module: nn.Module) -> list[Any] | None:
    """conv3×3, norm, GLU, conv3×3, norm of a module that has nothing else; None for any other."""
    if own_tensors(module) or len(module._modules) != 1:
        return None
    (block,) = module._modules.values()
    if not isinstance(block, nn.Sequential) or plain_class(block).forward is not nn.Sequential.forward:
        return None
    parts = list(block)
    fits = len(parts) == 5 and is_conv(parts[0], 3, 1, 1) and is_conv(parts[3], 3, 1, 1)
    fits = fits and is_norm(parts[1]) and is_norm(parts[4]) and parts[0].in_channels == parts[3].out_channels
    return parts if fits else None


def can_skip(module: nn.Module, glu: type) -> bool:
    """Whether the inside of a residual block is as it was recognised, and nobody watches it."""
    parts = residual_parts(module)
    return (
        parts is not None and plain_class(parts[2]) is glu and skippable(*module._modules.values(), *parts)  # type: ignore[arg-type]  # there is one child
    )


def residual(module: nn.Module, x: Tensor, fast: bool = True) -> Tensor:
    """The block of x; an ``x`` of half the channels stands for ``cat(x, x)``."""
    first, norm1, _, second, norm2 = residual_parts(module)  # type: ignore[misc]  # it has parts
    weight = first.weight
    if x.shape[1] != weight.shape[1]:
        weight = weight.unflatten(1, (2, -1)).sum(1)
    h = apply_norm(norm1, functional.batch_norm_glu, convolve(first, x, weight, fast=fast))
    z = convolve(second, h, second.weight, fast=fast)
    y: Tensor = apply_norm(norm2, functional.batch_norm_glu, z, skip=x)
    return y


def _run_residual(glu: type, fast: bool, own: FastForward, self: nn.Module, x: Any) -> Any:
    if not can_skip(self, glu):
        return own(self, x)
    conv, norm = residual_parts(self)[:2]  # type: ignore[index]  # it has parts
    if not takes(x, conv.weight) or x.shape[1] != conv.in_channels or (norm.training and x.numel() == x.shape[1]):
        return own(self, x)
    return residual(self, x, fast)


def recognise_residual(module: nn.Module, options: Options) -> Found | Refused | None:
    parts = residual_parts(module)
    if parts is None or not options.batch_norm_glu or isinstance(module, nn.Sequential):
        return None
    what = "residual block"
    reason = why_no_glu(parts[2])
    if reason is None:
        key = ("residual block", *map(plain_class, parts))
        reason = alike.remembered(module, key, lambda: _why_no_residual(module, parts[0].in_channels))
    if reason:
        return Refused(what, reason)
    glu = plain_class(parts[2])
    fast = partial(_run_residual, glu, options.convolutions)
    return Found(what, fast, ("residual", glu, options.convolutions), tuple(parts))


def _why_no_residual(module: nn.Module, channels: int) -> str | None:
    inputs = [alike.random(2, channels, 4, 4)]
    return alike.why_differ(module, alike.call, lambda m, x: residual(m, x, fast=False), inputs)
