"""What a run was trained on, beside its results: versions, system, device."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch

from dmgan_fast._version import __version__
from dmgan_fast.files import load_json, write_text

NAME = "environment.json"
PACKAGES = ("torch", "torchvision", "numpy")


def describe(device: torch.device) -> dict[str, str]:
    """Name → what it is."""
    on = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return {
        "dmgan_fast": __version__,
        **{name: version(name) for name in PACKAGES},
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}, {os.cpu_count()} logical cores",
        "device": on,
    }


def write_environment(run: Path, device: torch.device) -> None:
    """Into the folder of a run; a resumed run is described as it continues."""
    write_text(run / NAME, json.dumps(describe(device), indent=2) + "\n")


def read_environment(run: Path) -> dict[str, str]:
    """What is known; empty for runs of older versions."""
    try:
        found = load_json(run / NAME)
    except (OSError, ValueError):
        return {}
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}
