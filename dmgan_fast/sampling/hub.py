"""Weights on the Hub: what a sampler needs of a repository is fetched, and is then a folder as any other."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dmgan_fast.errors import InputError
from dmgan_fast.modules.pretrained import CONFIG_NAME, WEIGHTS_NAME, fetch

Source = str | os.PathLike[str]


def is_hub_id(source: Source) -> bool:
    """Whether ``source`` reads ``owner/name`` and nothing of that name lies here.

    Where there is a folder called ``owner``, it is taken for a mistyped path, and nobody is asked for it.
    """
    text = str(source)
    owner, _, name = text.partition("/")
    return bool(owner and name) and "/" not in name and owner not in (".", "..", "~") and not Path(owner).exists()


def fetch_folder(hub_id: str, models: tuple[str, ...], files: tuple[str, ...], **download: Any) -> Path:
    """The folder, in the cache of ``huggingface_hub``, with these models and files of one commit.

    Args:
        hub_id: ``owner/name``, a repository with the files of a run's ``weights/``.
        models: folders of models.
        files: others.
        download: as of ``PretrainedModel.from_pretrained``, and ``subfolder``: of the repository.

    Raises:
        CheckpointError: naming what could not be fetched, and why.
    """
    subfolder = download.pop("subfolder", "").strip("/")
    if ".." in subfolder.split("/"):
        raise InputError(f"subfolder must lie inside the repository, got {subfolder!r}")
    wanted = [(subfolder, name) for name in files]
    wanted += [(f"{subfolder}/{model}".strip("/"), name) for model in models for name in (CONFIG_NAME, WEIGHTS_NAME)]
    root: Path | None = None
    for folder, name in wanted:
        file = fetch(hub_id, folder, name, download)
        if root is None:
            inside = len(Path(folder, name).parts)
            root = file.parents[inside - 1]
            download = {**download, "revision": root.name}  # a branch may move on between two files
    assert root is not None
    return root / subfolder
