"""The authors' checkpoints: read them, write them, bit for bit."""

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
    load_checkpoint,
)

__all__ = [
    "export_bundle",
    "export_discriminator",
    "export_generator",
    "export_image_encoder",
    "export_text_encoder",
    "import_discriminator",
    "import_generator",
    "import_image_encoder",
    "import_text_encoder",
    "load_checkpoint",
]
