"""The models of DM-GAN, and the modules that they are made of (docs/modules.md)."""

from dmgan_fast.modules.blocks import BatchNormGLU, BatchNormSkip, ResidualBlock, UpBlock, share_batch_statistics
from dmgan_fast.modules.discriminator import Discriminator, DiscriminatorConfig
from dmgan_fast.modules.folded import fold
from dmgan_fast.modules.generator import AttnGenerator, Generator, GeneratorConfig, GeneratorOutput
from dmgan_fast.modules.image_encoder import ImageEncoder, ImageEncoderConfig
from dmgan_fast.modules.memory import DynamicMemory, MemoryOutput, WordAttention
from dmgan_fast.modules.spectral_norm import SpectralNormConv2d
from dmgan_fast.modules.text_encoder import TextEncoder, TextEncoderConfig, padding_mask
from dmgan_fast.modules.tiles import generate_in_tiles
from dmgan_fast.old_names import old_names

__all__ = [
    "AttnGenerator",
    "BatchNormGLU",
    "BatchNormSkip",
    "Discriminator",
    "DiscriminatorConfig",
    "DynamicMemory",
    "Generator",
    "GeneratorConfig",
    "GeneratorOutput",
    "ImageEncoder",
    "ImageEncoderConfig",
    "MemoryOutput",
    "ResidualBlock",
    "SpectralNormConv2d",
    "TextEncoder",
    "TextEncoderConfig",
    "UpBlock",
    "WordAttention",
    "fold",
    "generate_in_tiles",
    "padding_mask",
    "share_batch_statistics",
]

__getattr__ = old_names(__name__, {"draw_in_tiles": "generate_in_tiles"})
