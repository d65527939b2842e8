"""A folder of weights that belong together: encoders, generator, vocabulary and a model card."""

from __future__ import annotations

import os
from pathlib import Path

from dmgan_fast.data.vocabulary import Vocabulary
from dmgan_fast.errors import CheckpointError
from dmgan_fast.files import replace_file
from dmgan_fast.modules.pretrained import PretrainedModel

VOCABULARY_NAME = "vocabulary.json"
SHIPPED = Path(__file__).parent.parent / "weights" / "demo"


def save_bundle(
    folder: str | os.PathLike[str], *, vocabulary: Vocabulary, card: str, **models: PretrainedModel
) -> None:
    """Write ``folder/<name>/`` for each model, ``vocabulary.json`` and ``README.md``."""
    path = Path(folder)
    for name, model in models.items():
        (path / name).mkdir(parents=True, exist_ok=True)
        model.save_pretrained(path / name)
    vocabulary.save(path / VOCABULARY_NAME)
    with replace_file(path / "README.md") as temporary:
        temporary.write_text(f"# Model card\n\n{card}", encoding="utf-8")


def find_bundle(folder: str | os.PathLike[str], *needed: str) -> Path:
    """The bundle at ``folder`` or ``folder/weights``.

    Raises:
        CheckpointError: naming what is missing.
    """
    path = Path(folder)
    if (path / "weights" / VOCABULARY_NAME).is_file():
        path = path / "weights"
    missing = [name for name in (VOCABULARY_NAME, *needed) if not (path / name).exists()]
    if missing:
        raise CheckpointError(f"no weights at {str(folder)!r}: {', '.join(missing)} missing there (and in weights/)")
    return path
