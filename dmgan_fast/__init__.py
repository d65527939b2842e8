"""DM-GAN: text to image by memory-driven refinement.

Names are loaded on first use: ``import dmgan_fast`` loads neither PyTorch, native code nor Triton.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dmgan_fast._version import __version__

if TYPE_CHECKING:
    from dmgan_fast.modules import (
        AttnGenerator,
        Discriminator,
        DiscriminatorConfig,
        Generator,
        GeneratorConfig,
        GeneratorOutput,
        ImageEncoder,
        ImageEncoderConfig,
        TextEncoder,
        TextEncoderConfig,
    )
    from dmgan_fast.sampling import Sampler
    from dmgan_fast.training import Batch, MemoryPolicy, Plan, StepConfig, TrainStep, plan

_MODULES = "compat data evaluation functional info losses metrics modules reference sampling training".split()  # noqa: SIM905
_HOMES = {
    "modules": "AttnGenerator Discriminator DiscriminatorConfig Generator GeneratorConfig GeneratorOutput ImageEncoder "
    "ImageEncoderConfig TextEncoder TextEncoderConfig",
    "sampling": "Sampler",
    "training": "Batch MemoryPolicy Plan StepConfig TrainStep plan",
}
_NAMES = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = [
    "AttnGenerator",
    "Batch",
    "Discriminator",
    "DiscriminatorConfig",
    "Generator",
    "GeneratorConfig",
    "GeneratorOutput",
    "ImageEncoder",
    "ImageEncoderConfig",
    "MemoryPolicy",
    "Plan",
    "Sampler",
    "StepConfig",
    "TextEncoder",
    "TextEncoderConfig",
    "TrainStep",
    "__version__",
    "plan",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"dmgan_fast.{name}")
    if name in _NAMES:
        return getattr(import_module(f"dmgan_fast.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'dmgan_fast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, *_NAMES})
