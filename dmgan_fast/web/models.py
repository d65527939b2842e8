"""The models that a page offers: by name, loaded when first asked for."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from dmgan_fast.errors import DMGANError, InputError
from dmgan_fast.sampling.bundle import BEST, open_bundle
from dmgan_fast.sampling.hub import is_hub_id
from dmgan_fast.sampling.sampler import PARTS, Sampler

SHIPPED_NAME = "Shipped weights"
DEPTH = 3  # folders below the given one in which runs are looked for
Load = Callable[[], Sampler]


class Models:
    """Samplers by name; ``keep`` of them stay loaded, those used last.

    Not for several threads at once.
    """

    def __init__(self, sources: Mapping[str, Load], keep: int = 2) -> None:
        if not sources:
            raise InputError("web: at least one model is needed")
        self._sources, self._keep = dict(sources), keep
        self._loaded: OrderedDict[str, Sampler] = OrderedDict()

    @property
    def names(self) -> list[str]:
        """In the order given."""
        return list(self._sources)

    def get(self, name: str) -> Sampler:
        """The sampler of this name, which must be one of ``names``."""
        if name not in self._loaded:
            self._loaded[name] = self._sources[name]()
        self._loaded.move_to_end(name)
        while len(self._loaded) > self._keep:
            self._loaded.popitem(last=False)
        return self._loaded[name]


def find_models(
    weights: Iterable[str] = (), runs: str | os.PathLike[str] | None = None, *, device: str = "auto"
) -> Models:
    """The shipped weights, those given, and all below the folder ``runs``.

    Names are what a visitor may know: of a folder its last part, of a run its place below ``runs``, of the Hub the id.

    Raises:
        CheckpointError: if given weights can't be used.
        InputError: if ``runs`` is no folder.
    """
    sources: dict[str, Load] = {}

    def add(name: str, source: str | None, step: str | None = None) -> None:
        unique, number = name, 2
        while unique in sources:
            unique, number = f"{name} ({number})", number + 1
        sources[unique] = lambda: Sampler.from_pretrained(source, device=device, step=step)

    for source in weights:
        if not is_hub_id(source):
            open_bundle(source, *PARTS)  # now, and not when a visitor asks
        add(source if is_hub_id(source) else Path(source).absolute().name, source)
    add(SHIPPED_NAME, None)
    if runs is not None:
        root = Path(runs)
        if not root.is_dir():
            raise InputError(f"web: --runs must be a folder, got {str(runs)!r}")
        for folder in _runs(root, DEPTH):
            name = folder.relative_to(root).as_posix() if folder != root else root.absolute().name
            add(name, str(folder))
            if (folder / BEST).is_dir():
                add(f"{name}, best", str(folder), BEST)
    return Models(sources)


def _runs(folder: Path, depth: int) -> Iterator[Path]:
    """Folders of runs and weights that can generate, in the order of their names; not those inside of one."""
    if _generates(folder):
        yield folder
    elif depth:
        for inner in sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith(".")):
            yield from _runs(inner, depth - 1)


def _generates(folder: Path) -> bool:
    try:
        open_bundle(folder, *PARTS)
    except DMGANError:
        return False
    return True
