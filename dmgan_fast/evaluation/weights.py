"""Published weights of feature extractors: looked for in a folder, checked against their hash, never downloaded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dmgan_fast.errors import CheckpointError
from dmgan_fast.foreign import read_torch, what_is
from dmgan_fast.modules.image_encoder import INCEPTION_FILE, INCEPTION_URL


class MissingWeights(CheckpointError):
    """Weights that a metric needs are not on this machine; the message says what to fetch and where to put it."""


@dataclass(frozen=True)
class WeightFile:
    """A published file. ``names``: those it goes by; ``sha256``: its hash, or the leading digits that are published."""

    what: str
    names: tuple[str, ...]
    url: str
    sha256: str

    def read(self, folder: Path) -> tuple[dict[str, Tensor], str]:
        """Its tensors and its SHA-256.

        Raises:
            MissingWeights: if no file of these names is in ``folder``.
            CheckpointError: if the file is not the published one.
        """
        file = next((folder / name for name in self.names if (folder / name).is_file()), None)
        if file is None:
            raise MissingWeights(
                f"{self.what} not found: fetch {self.url} and put it into {folder} (or name another folder with "
                "--inception)"
            )
        content = _bytes(file)
        digest = hashlib.sha256(content).hexdigest()
        if not digest.startswith(self.sha256):
            found = what_is(file)
            if found:
                raise CheckpointError(f"{file} is not the published file: it is {found} ({self.url})")
            raise CheckpointError(
                f"{file} is not the published file: its SHA-256 is {digest}, expected {self.sha256}"
                f"{'' if len(self.sha256) == 64 else '...'}; fetch {self.url} again"
            )
        return _tensors(file), digest


TORCHVISION_INCEPTION = WeightFile(
    what="torchvision's Inception-v3",
    names=(INCEPTION_FILE,),
    url=INCEPTION_URL,
    sha256="0cc3c7bd",  # PyTorch publishes the first eight digits, in the name
)
TF_INCEPTION = WeightFile(
    what="TensorFlow's Inception of 2015-12-05, ported to PyTorch,",
    names=("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth"),
    url=("https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"),
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
)


def default_folder() -> Path:
    """PyTorch's cache of weights, where torchvision, pytorch-fid and torch-fidelity leave them too."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def read_tensors(file: Path) -> tuple[dict[str, Tensor], str]:
    """Tensors of a ``.pth`` or ``.safetensors`` file of the user's own, and its SHA-256.

    Raises:
        CheckpointError: if it is missing or holds more than tensors.
    """
    if not file.is_file():
        raise CheckpointError(f"weights not found: {file}")
    content = _bytes(file)
    return _tensors(file), hashlib.sha256(content).hexdigest()


def digest_of(*files: Path) -> str:
    """SHA-256 over the contents of files, in order."""
    return hashlib.sha256(b"".join(hashlib.sha256(_bytes(file)).digest() for file in files)).hexdigest()


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{file} can't be read: {error}") from None


def _tensors(file: Path) -> dict[str, Tensor]:
    state = read_torch(file, "file of tensors only")
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{file}: expected a state dict (names with tensors), got something else around them")
    return dict(state)
