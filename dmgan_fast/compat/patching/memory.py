"""Reads of words by pixels, as AttnGAN and DM-GAN write them, and DM-GAN's whole refinement stage.

What a module's tensors are for is told by their sizes; where sizes leave a choice (key or value, which images a mask
is for, whether the mean is detached), each choice is tried until one does what the module's own forward does.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from dmgan_fast import functional
from dmgan_fast.compat.patching import alike, blocks
from dmgan_fast.compat.patching.classes import FastForward, plain_class
from dmgan_fast.compat.patching.guards import own_tensors, skippable, takes
from dmgan_fast.compat.patching.rules import Found, Options, Refused

READ = "attention read of words"
STAGE = "memory refinement"
MASK_MODES = ("official", "paper")  # the authors' first
BATCH, SIDE, WORDS = 3, 4, 5  # of the inputs to compare on


def parameters_of(module: nn.Module) -> list[str] | None:
    """Names of what its own forward is called with; None if it takes any number."""
    parameters = list(inspect.signature(plain_class(module).forward).parameters.values())[1:]
    plain = all(p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for p in parameters)
    return [p.name for p in parameters] if plain else None


def padding(batch: int, words: int) -> Tensor:
    """A mask whose rows differ."""
    lengths = torch.tensor([words - k % words for k in range(batch)], device="cpu")
    return torch.arange(words, device="cpu") >= lengths[:, None]


# --------------------------------------------------------------------------------------------------------------- reads


def read(module: Any, mask_mode: str, h: Tensor, *texts: Tensor) -> tuple[Tensor, Tensor]:
    """The words that pixels read ``[B, C, H, W]``, and their attention ``[B, T, H, W]``."""
    projections = [each for each in module._modules.values() if isinstance(each, nn.Conv2d)]
    key = projections[0](texts[0].unsqueeze(3)).squeeze(3) if projections else texts[0]
    mask = module.mask
    found = functional.memory_read(
        h, key, texts[-1] if len(texts) == 2 else key, None, None, mask, mask_mode=mask_mode, return_attention=True
    )
    return found  # type: ignore[return-value]  # with return_attention there are two


def _run_read(mask_mode: str, own: FastForward, self: Any, *inputs: Any, **named: Any) -> Any:
    h, *texts = inputs or (None,)
    fits = not named and bool(texts) and takes(h) and all(takes(t, dimensions=3) for t in texts)
    if not (fits and len({t.shape for t in texts}) == 1 and _mask_fits(getattr(self, "mask", None), texts[0])):
        return own(self, *inputs, **named)
    projects = any(isinstance(each, nn.Conv2d) for each in self._modules.values())
    if not projects and any(t.shape[1] != h.shape[1] or t.dtype != h.dtype for t in texts):
        return own(self, *inputs, **named)
    return read(self, mask_mode, *inputs)


def _mask_fits(mask: Any, words: Tensor) -> bool:
    """No mask, or a boolean one of the words ``[B, D, T]``."""
    return mask is None or (
        isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.shape == (words.shape[0], words.shape[2])
    )


def recognise_read(module: nn.Module, options: Options) -> Found | Refused | None:
    if not options.memory or own_tensors(module) or "mask" not in vars(module):
        return None
    children = [each for each in module._modules.values() if each is not None and has_parameters(each)]
    names = parameters_of(module)
    if names is None or len(children) > 1 or len(names) != (2 if children else 3):
        return Refused(READ, "its forward is called with other things than pixels and words")
    channels = words = 6
    if children:
        (conv,) = children
        if not isinstance(conv, nn.Conv2d) or conv.kernel_size != (1, 1) or conv.groups != 1:
            return Refused(READ, "its words are projected by something else than a 1×1 convolution")
        channels, words = conv.out_channels, conv.in_channels
    text = [alike.random(BATCH, words, WORDS, seed=5 + k) for k in range(1 if children else 2)]
    reason = None
    for mode in MASK_MODES:
        for mask in (None, padding(BATCH, WORDS)):
            reason = alike.why_differ(
                module, partial(_masked, mask, alike.call), partial(_masked, mask, partial(_read_by, mode)),
                [alike.random(BATCH, channels, SIDE, SIDE), *text],
            )  # fmt: skip
            if reason:
                break
        if reason is None:
            return Found(READ, partial(_run_read, mode), ("read", mode))
    return Refused(READ, str(reason))


def _masked(mask: Tensor | None, call: FastForward, module: Any, *inputs: Any) -> Any:
    module.mask = mask
    return call(module, *inputs)


def _read_by(mode: str, module: nn.Module, *inputs: Any) -> Any:
    return read(module, mode, *inputs)


# -------------------------------------------------------------------------------------------------------------- stages


@dataclass(frozen=True)
class Roles:
    """Names of a stage's children by what they do, and what its forward is called with, by place."""

    pool: str
    gate_word: str
    gate_image: str
    word: str
    image: str
    key: str
    value: str
    response: str
    read: str
    residual: str
    up: str
    arguments: tuple[str, ...]  # "h", "words", "mask" or "other"
    mask_mode: str = "official"
    detached: bool = True


def _is_projection(module: Any) -> bool:
    """1×1 convolution over words, then ReLU."""
    if not isinstance(module, nn.Sequential) or list(map(plain_class, module)) != [nn.Conv1d, nn.ReLU]:
        return False
    conv: Any = module[0]
    return bool(conv.kernel_size == (1,) and conv.stride == (1,) and conv.groups == 1 and conv.bias is not None)


def _is_response(module: Any) -> bool:
    """1×1 convolution of pixels to one number, then sigmoid."""
    if not isinstance(module, nn.Sequential) or list(map(plain_class, module)) != [nn.Conv2d, nn.Sigmoid]:
        return False
    conv: Any = module[0]
    return bool(conv.kernel_size == (1, 1) and conv.out_channels == 1 and conv.bias is not None)


def _arguments(names: list[str] | None) -> tuple[str, ...] | None:
    """What each argument of a stage is, told by its name; None if there are no pixels, words and mask among them."""
    found = []
    for place, name in enumerate(names or ()):
        if place == 0:
            found.append("h")
        else:
            found.append(next((role for sign, role in (("mask", "mask"), ("word", "words")) if sign in name), "other"))
    return tuple(found) if sorted(each for each in found if each != "other") == ["h", "mask", "words"] else None


@dataclass(frozen=True)
class _Kinds:
    """Names of a stage's children by their kind; ``rest``: of those with parameters that are of no such kind."""

    pools: list[str]
    gates: list[str]
    projections: list[str]
    responses: list[str]
    reads: list[str]
    rest: list[str]


def _kinds(module: nn.Module) -> _Kinds | None:
    """None if the children are not those of a stage."""
    children = {name: child for name, child in module._modules.items() if child is not None}
    found = _Kinds(
        [n for n, c in children.items() if plain_class(c) is nn.AvgPool2d],
        [n for n, c in children.items() if plain_class(c) is nn.Linear and c.out_features == 1 and c.bias is None],
        [n for n, c in children.items() if _is_projection(c)],
        [n for n, c in children.items() if _is_response(c)],
        [n for n, c in children.items() if "mask" in vars(c) and not has_parameters(c)],
        [],
    )
    known = {name for names in vars(found).values() for name in names}
    found.rest.extend(n for n, c in children.items() if n not in known and has_parameters(c))
    return found if [len(names) for names in vars(found).values()] == [1, 2, 4, 1, 1, 2] else None


def _candidates(module: Any, kinds: _Kinds, arguments: tuple[str, ...]) -> Iterator[Roles]:
    """Every way to understand the children of what may be a stage, the likeliest first."""
    children = module._modules
    projections = {name: children[name][0] for name in kinds.projections}
    channels = children[kinds.responses[0]][0].in_channels // 2
    writers = [n for n, c in projections.items() if c.out_channels == 2 * channels]
    readers = [n for n, c in projections.items() if (c.in_channels, c.out_channels) == (2 * channels, channels)]
    if len(writers) != 2 or len(readers) != 2:
        return
    for (key, value), (word, image), (gate_word, gate_image) in product(
        (readers, readers[::-1]), (writers[::-1], writers), (kinds.gates, kinds.gates[::-1])
    ):
        dimensions = projections[word].in_channels
        sizes = (projections[image].in_channels, children[gate_word].in_features, children[gate_image].in_features)
        if sizes == (channels, dimensions, channels):
            residual, up = kinds.rest
            parts = (kinds.pools[0], gate_word, gate_image, word, image, key, value, kinds.responses[0], kinds.reads[0])
            yield Roles(*parts, residual, up, arguments)


def has_parameters(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


def _inner(module: nn.Module, roles: Roles) -> list[Any]:
    """The children that a fast stage does not call."""
    names = (roles.pool, roles.gate_word, roles.gate_image, roles.word, roles.image, roles.key, roles.value)
    children: list[Any] = [module._modules[name] for name in (*names, roles.response, roles.read)]
    return [*children, *(part for child in children if isinstance(child, nn.Sequential) for part in child)]


def _memory(module: Any, roles: Roles, h: Tensor, words: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """``h' [B, C, H, W]`` and the attention ``[B, T, H, W]``."""
    child: dict[str, Any] = module._modules
    mean = h.mean((2, 3))
    key, value = functional.memory_write(
        words,
        mean.detach() if roles.detached else mean,
        gate_word=child[roles.gate_word].weight[0],
        gate_image=child[roles.gate_image].weight[0],
        **{
            f"{name}_{what}": getattr(child[place][0], what).flatten(1) if what == "weight" else child[place][0].bias
            for name, place in (
                ("word", roles.word),
                ("image", roles.image),
                ("key", roles.key),
                ("value", roles.value),
            )
            for what in ("weight", "bias")
        },
    )
    gate = child[roles.response][0]
    reader = child[roles.read]
    if hasattr(reader, "applyMask"):
        reader.applyMask(mask)
    else:
        reader.mask = mask
    found = functional.memory_read(
        h, key, value, gate.weight.flatten(), gate.bias, mask, mask_mode=roles.mask_mode, return_attention=True
    )
    return found  # type: ignore[return-value]  # with return_attention there are two


def _stage(module: Any, roles: Roles, glu: type | None, fast: bool, *inputs: Any) -> tuple[Tensor, Tensor]:
    """The stage; ``glu``: of the first residual block, which then takes h' for ``cat(h', h')``."""
    named = dict(zip(roles.arguments, inputs, strict=True))
    h, attention = _memory(module, roles, named["h"], named["words"], named["mask"])
    series, up = module._modules[roles.residual], module._modules[roles.up]
    if glu is not None and skippable(series, series[0]) and blocks.can_skip(series[0], glu):
        x = blocks.residual(series[0], h, fast)
        for block in list(series)[1:]:
            x = block(x)
        return up(x), attention
    return up(series(torch.cat((h, h), 1))), attention


def _run_stage(
    roles: Roles, glu: type | None, fast: bool, own: FastForward, self: Any, *given: Any, **named: Any
) -> Any:
    bound = _bind(self, given, named)
    if bound is None or not _fits(self, roles, dict(zip(roles.arguments, bound, strict=True))):
        return own(self, *given, **named)
    return _stage(self, roles, glu, fast, *bound)


def _bind(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...] | None:
    """All arguments by place."""
    if not named:
        names = parameters_of(module) or []
        return given if len(given) == len(names) else None
    try:
        bound = inspect.signature(plain_class(module).forward).bind(module, *given, **named)
    except TypeError:
        return None
    bound.apply_defaults()
    return tuple(bound.arguments.values())[1:]


def _fits(module: Any, roles: Roles, given: dict[str, Any]) -> bool:
    h, words, mask = given["h"], given["words"], given["mask"]
    child = module._modules
    side = child[roles.pool].kernel_size
    weight = child[roles.key][0].weight
    return (
        takes(h, weight)
        and takes(words, weight, dimensions=3)
        and _mask_fits(mask, words)
        and tuple(h.shape[2:]) == (side if isinstance(side, tuple) else (side, side))
        and skippable(*_inner(module, roles))
    )


class _Affine(nn.Module):
    """Stands for the blocks after the memory: two of them give another result in another order."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x * x + x


def recognise_stage(module: nn.Module, options: Options) -> Found | Refused | None:
    kinds = _kinds(module) if options.memory else None
    if kinds is None:
        return None
    arguments = _arguments(parameters_of(module))
    if arguments is None:
        return Refused(STAGE, "the names of its forward's arguments don't tell pixels, words and mask")
    reason = "the sizes of its parts are not those of a memory"
    for number, likely in enumerate(_candidates(module, kinds, arguments)):
        for mask_mode, detached in product(MASK_MODES, (True, False)):
            roles = replace(likely, mask_mode=mask_mode, detached=detached)
            why = _why_not_stage(module, roles)
            if why is None:
                return _found(module, roles, options)
            if number == 0 and mask_mode == MASK_MODES[0] and detached:
                reason = why
    return Refused(STAGE, reason)


def _found(module: Any, roles: Roles, options: Options) -> Found:
    series = module._modules[roles.residual]
    glu, what = None, STAGE
    if isinstance(series, nn.Sequential) and plain_class(series).forward is nn.Sequential.forward:
        first = series[0]
        if isinstance(blocks.recognise_residual(first, options), Found):
            glu = plain_class(blocks.residual_parts(first)[2])  # type: ignore[index]  # it has parts
            what = f"{STAGE}, and cat(h, h) into the first residual block"
    covers = tuple(_inner(module, roles))
    return Found(
        what, partial(_run_stage, roles, glu, options.convolutions), ("stage", roles, glu, options.convolutions), covers
    )


def _why_not_stage(module: Any, roles: Roles) -> str | None:
    child = module._modules
    channels = child[roles.response][0].in_channels // 2
    given = {
        "h": alike.random(BATCH, channels, SIDE, SIDE),
        "words": alike.random(BATCH, child[roles.word][0].in_channels, WORDS, seed=3),
        "mask": padding(BATCH, WORDS),
        "other": alike.random(BATCH, 7, seed=4),
    }
    return alike.why_differ(
        module,
        alike.call,
        lambda m, *inputs: _stage(m, roles, None, False, *inputs),
        [given[name] for name in roles.arguments],
        modes=(True,),  # what has another mode in training comes after the memory
        instead=lambda: {
            child[roles.pool]: nn.AvgPool2d(SIDE),
            child[roles.residual]: _Affine(0.5),
            child[roles.up]: _Affine(0.1),
        },
    )
