"""The authors' checkpoints: read them, write them, bit for bit. Others' code on the fused ops: ``patch``."""

from dmgan_fast.compat.bundle import Imported, import_bundle, read_vocabulary
from dmgan_fast.compat.checkpoints import (
    export_bundle,
    export_discriminator,
    export_generator,
    export_image_encoder,
    export_text_encoder,
    import_discriminator,
    import_generator,
    import_image_encoder,
    import_text_encoder,
)
from dmgan_fast.compat.files import load_checkpoint
from dmgan_fast.compat.patching import Handle, Report, patch
from dmgan_fast.errors import CheckpointError

__all__ = [
    "CheckpointError",
    "Handle",
    "Imported",
    "Report",
    "export_bundle",
    "export_discriminator",
    "export_generator",
    "export_image_encoder",
    "export_text_encoder",
    "import_bundle",
    "import_discriminator",
    "import_generator",
    "import_image_encoder",
    "import_text_encoder",
    "load_checkpoint",
    "patch",
    "read_vocabulary",
]
