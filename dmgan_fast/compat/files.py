"""What of the authors' family is in a file: which models, under which names, whatever is around and beside them.

Training scripts save weights bare, as ``{"netG": ...}`` or ``{"state_dict": ..., "epoch": 600}``, behind ``module.``,
all models in one file, or the module itself. All of it becomes one table of dotted names; a model shows by a tensor
that only it has, and what stands before that tensor's name is its prefix.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dmgan_fast.errors import CheckpointError
from dmgan_fast.foreign import Husk, read_torch

StateDict = dict[str, Tensor]

# Tensors that every version of a model has.
MARKS = {
    "generator": "ca_net.fc.weight",
    "discriminator": "COND_DNET.outlogits.0.weight",
    "text encoder": "rnn.weight_ih_l0",
    "image encoder": "emb_cnn_code.weight",
}
AVERAGES = {"ema", "avg", "average", "averaged", "shadow"}
DEPTH = 12  # containers in containers


@dataclass(frozen=True)
class Found:
    """One model in a file. ``place``: the names around it, as ``"model.netG"``; ``state``: its own names."""

    kind: str
    place: str
    state: StateDict

    @property
    def averaged(self) -> bool:
        """Whether its place says that it is an average of weights."""
        return not AVERAGES.isdisjoint(re.split(r"[^a-z]+", self.place.lower()))


def load_checkpoint(path: str | os.PathLike[str]) -> StateDict:
    """Read a state dict saved by the authors' code or by scripts like theirs, without executing anything in it.

    Old formats are read; so are weights inside a dictionary, beside epochs, optimisers and numbers of numpy. Of several
    models in one file all tensors come, under dotted names, and ``import_generator`` and the others find their own.

    Raises:
        CheckpointError: if the file is missing, unreadable, something else (says what), or has no model in it.
    """
    file = Path(path)
    content = read_torch(file, husks=True)
    if isinstance(content, Mapping) and content and all(isinstance(value, Tensor) for value in content.values()):
        return {_printable(key): value for key, value in content.items()}
    tensors = flatten(content)
    models = models_in(tensors)
    if len(models) == 1:
        return models[0].state
    if not models:
        raise CheckpointError(
            f"{file}: expected a state dict (names with tensors) of a model; {_shown(content, tensors)}"
        )
    return tensors


def flatten(content: Any) -> StateDict:
    """All tensors under dotted names, through dictionaries, lists and saved modules."""
    return dict(_walk(content, "", 0))


def models_in(tensors: Mapping[str, Tensor]) -> list[Found]:
    """The models of the family among these tensors."""
    found: list[Found] = []
    for kind, mark in MARKS.items():
        for key in tensors:
            if key == mark or key.endswith(f".{mark}"):
                prefix = key[: -len(mark)]
                state = {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
                found.append(Found(kind, prefix.rstrip("."), _own(kind, state)))
    return found


def find_model(state: Mapping[str, Tensor], kind: str) -> StateDict:
    """The tensors of the one model of this kind, or ``state`` as it is if there is none.

    Of a model and its average the average is taken, which is what the authors generate with.

    Raises:
        CheckpointError: if there are several, naming their places.
    """
    found = [model for model in models_in(state) if model.kind == kind]
    return chosen(found).state if found else dict(state)


def chosen(found: list[Found]) -> Found:
    """The only one, or the only average among several.

    Raises:
        CheckpointError: if neither is so.
    """
    averaged = [model for model in found if model.averaged]
    for models in (found, averaged):
        if len(models) == 1:
            return models[0]
    places = ", ".join(repr(model.place) for model in found)
    raise CheckpointError(
        f"there is more than one {found[0].kind}, under {places}; save the one that is meant by itself"
    )


def _own(kind: str, state: StateDict) -> StateDict:
    """Without what other models in the same dictionary hold: of each, only the parts that this kind has."""
    others = {key for other, mark in MARKS.items() if other != kind for key in state if key.endswith(mark)}
    if not others:
        return state
    parts = PARTS[kind]
    return {name: value for name, value in state.items() if name.split(".")[0].startswith(parts)}


PARTS = {
    "generator": ("ca_net", "h_net", "img_net"),
    "discriminator": ("img_code_s", "COND_DNET", "UNCOND_DNET"),
    "text encoder": ("encoder", "rnn"),
    "image encoder": ("Conv2d_", "Mixed_", "emb_"),
}


def _walk(content: Any, name: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    if isinstance(content, Tensor):
        yield name, content
        return
    if depth > DEPTH:
        return
    if isinstance(content, Husk) and isinstance(content.state, Mapping):
        content = content.state
        if "_modules" in content:  # a module: its parts are named as in its state dict
            content = [content.get(part) or {} for part in ("_parameters", "_buffers", "_modules")]
            for part in content:
                yield from _walk(part, name, depth + 1)
            return
    items: Iterator[tuple[Any, Any]] = iter(())
    if isinstance(content, Mapping):
        items = iter(content.items())
    elif isinstance(content, (list, tuple)):
        items = iter(enumerate(content))
    for key, value in items:
        if isinstance(value, (Tensor, Mapping, list, tuple, Husk)):
            key = _printable(key)
            yield from _walk(value, f"{name}.{key}" if name else key, depth + 1)


def _printable(key: Any) -> str:
    """A name of a damaged file may hold anything, and is shown in messages."""
    name = str(key)
    return name if name.isprintable() else name.encode("unicode_escape").decode()


def _shown(content: Any, tensors: StateDict) -> str:
    if tensors:
        return f"none of the family is in it; its tensors are {', '.join(list(tensors)[:4])}, ..."
    if isinstance(content, Mapping):
        return f"it holds no tensors, but {', '.join(repr(str(key)) for key in list(content)[:6])}"
    return "it holds no tensors"
