"""Where to compute."""

from __future__ import annotations

import torch

from dmgan_fast.errors import InputError


def pick_device(name: str) -> torch.device:
    """``"auto"``: a GPU if there is one.

    Raises:
        InputError: for another name than auto, cpu, cuda, cuda:N, or a card that is not here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(
            f"device must be auto, cpu, cuda or cuda:N, got {name!r}: {str(error).splitlines()[0]}"
        ) from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise InputError(f"device: PyTorch sees no CUDA device here, got {name!r}")
        if (device.index or 0) >= torch.cuda.device_count():
            raise InputError(f"device: there are {torch.cuda.device_count()} CUDA devices here, from 0, got {name!r}")
    return device
