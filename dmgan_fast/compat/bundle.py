"""Published files become one folder that every command takes: generator, discriminators, encoders, their vocabulary."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dmgan_fast.compat.checkpoints import (
    import_discriminator,
    import_generator,
    import_image_encoder,
    import_text_encoder,
)
from dmgan_fast.compat.files import Found, chosen, flatten, models_in
from dmgan_fast.data.pickles import read_pickle
from dmgan_fast.data.vocabulary import Vocabulary, words_of
from dmgan_fast.errors import CheckpointError, DataError, InputError
from dmgan_fast.foreign import read_torch, what_is
from dmgan_fast.modules import Discriminator, Generator, ImageEncoder, TextEncoder
from dmgan_fast.modules.pretrained import PretrainedModel
from dmgan_fast.sampling.bundle import DISCRIMINATOR, MODELS, VOCABULARY_NAME, save_bundle

TORCH_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"  # torch.save before PyTorch 1.6 begins so
READERS = {
    "generator": import_generator,
    "discriminator": import_discriminator,
    "text encoder": import_text_encoder,
    "image encoder": import_image_encoder,
}


@dataclass
class Imported:
    """What ``import_bundle`` found and wrote.

    ``lines``: what each file is, in words; ``missing``: what is not there, and what it would be needed for.
    """

    folder: Path
    models: dict[str, PretrainedModel] = field(default_factory=dict)
    vocabulary: Vocabulary | None = None
    lines: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def import_bundle(
    files: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    vocabulary: str | os.PathLike[str] | None = None,
    mask_mode: str = "official",
) -> Imported:
    """Read published weights and write them as a folder for ``sample``, ``train``, ``evaluate`` and ``export``.

    Args:
        files: ``.pth`` or ``.safetensors`` files in any order, each with one or more models; and the vocabulary of the
            text encoder, ``captions.pickle`` or ``vocabulary.json``.
        out: the folder; it must not hold weights yet.
        vocabulary: the vocabulary's file, if it is not among ``files``.
        mask_mode: of the generator; the authors' weights were trained with ``"official"``.

    Raises:
        CheckpointError, DataError, InputError: naming the file, for one that holds none of this, for two of a kind, or
            for parts that do not belong together; nothing is then written.
    """
    found = Imported(Path(out))
    if not files:
        raise InputError("import: give the files to read, as bird_DMGAN.pth text_encoder200.pth captions.pickle")
    if mask_mode not in ("official", "paper"):
        raise InputError(f"import: masks must be official or paper, got {mask_mode!r}")
    held = [name for name in (VOCABULARY_NAME, *MODELS) if (found.folder / name).exists()]
    if held or (found.folder / "checkpoints").exists():
        raise InputError(f"import: {found.folder} already holds {held[0] if held else 'a run'}; give another --out")
    origins: dict[str, str] = {}
    for name in files:
        _read(Path(name), found, origins, mask_mode)
    if vocabulary is not None:
        _take_vocabulary(Path(vocabulary), found, origins)
    _check(found, origins)
    _say_what_is_missing(found)
    card = "Imported from published files:\n\n" + "".join(f"- {line}\n" for line in found.lines)
    save_bundle(found.folder, vocabulary=found.vocabulary, card=card, **found.models)
    return found


def read_vocabulary(file: Path) -> Vocabulary:
    """The words of ``captions.pickle`` as AttnGAN's users have it, or of ``vocabulary.json``.

    Raises:
        DataError: if the file is missing, broken, or holds no numbered words.
    """
    if not file.is_file():
        raise DataError(f"vocabulary not found: {file}")
    if _begins(file) in (b"[", b"{"):
        return Vocabulary.load(file)
    try:
        content = read_pickle(file)
    except DataError as error:  # only now: pickles of Python 2 can be text
        wrong = what_is(file)
        raise DataError(f"{file}: not a vocabulary: it is {wrong}") if wrong else error from None
    parts = (
        list(content.values()) if isinstance(content, dict) else content if isinstance(content, (list, tuple)) else []
    )
    with words_of(file):
        for part in [*parts, content]:
            if isinstance(part, Mapping) and part and all(_is_index(k) and isinstance(v, str) for k, v in part.items()):
                return Vocabulary.from_official({int(index): word for index, word in part.items()})
        for part in [*parts, content]:
            if isinstance(part, Mapping) and part and all(isinstance(k, str) and _is_index(v) for k, v in part.items()):
                return Vocabulary.from_official({int(index): word for word, index in part.items()})
    raise DataError(f"{file}: no numbered words in it; expected [train captions, test captions, ixtoword, wordtoix]")


# ------------------------------------------------------------------------------------------------------- one file each


def _read(file: Path, found: Imported, origins: dict[str, str], mask_mode: str) -> None:
    if not file.exists():
        raise CheckpointError(f"import: file not found: {file}")
    if file.is_dir():
        raise InputError(f"import: {file} is a folder; give the files in it")
    if _is_vocabulary(file):
        _take_vocabulary(file, found, origins)
        return
    tensors = flatten(read_torch(file, husks=True))
    models = models_in(tensors)
    if not models:
        raise CheckpointError(f"{file}: {_unknown(tensors)}")
    for kind in READERS:
        of_kind = [model for model in models if model.kind == kind]
        if kind != "discriminator" and of_kind:
            try:
                of_kind = [chosen(of_kind)]
            except CheckpointError as error:
                raise CheckpointError(f"{file}: {error}") from None
        for model in of_kind:
            _take(file, model, found, origins, mask_mode)


def _take(file: Path, model: Found, found: Imported, origins: dict[str, str], mask_mode: str) -> None:
    options = {"mask_mode": mask_mode} if model.kind == "generator" else {}
    where = f"{file}, in {model.place!r}" if model.place else str(file)
    try:
        made: Any = READERS[model.kind](model.state, **options)  # type: ignore[operator]
    except (CheckpointError, InputError) as error:
        raise CheckpointError(f"{where}: looks like a {model.kind} of the family, but {error}") from None
    name = f"{DISCRIMINATOR}{made.config.image_size}" if model.kind == "discriminator" else model.kind.replace(" ", "_")
    if name in origins:
        raise InputError(f"import: both {origins[name]} and {where} hold a {_name(name)}; give one of them")
    origins[name] = where
    found.models[name] = made
    found.lines.append(f"{where}: {_describe(made)}")


def _take_vocabulary(file: Path, found: Imported, origins: dict[str, str]) -> None:
    if "vocabulary" in origins:
        raise InputError(f"import: both {origins['vocabulary']} and {file} hold a vocabulary; give one of them")
    found.vocabulary = read_vocabulary(file)
    origins["vocabulary"] = str(file)
    words, fingerprint = found.vocabulary.words, found.vocabulary.fingerprint
    first = ", ".join(words[1:4])
    found.lines.append(f"{file}: vocabulary of {len(words)} words ({first}, ...), fingerprint {fingerprint[:12]}")


def _is_vocabulary(file: Path) -> bool:
    """Whether to read the file as words: JSON, or a pickle that torch.save did not write."""
    with file.open("rb") as stream:
        head = stream.read(len(TORCH_MAGIC))
    if file.suffix.lower() == ".json":
        return True
    pickled = file.suffix.lower() in (".pickle", ".pkl") or head.startswith(b"\x80")
    return pickled and not head.startswith((b"PK", TORCH_MAGIC))


def _begins(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _describe(model: Any) -> str:
    config = model.config
    if isinstance(model, Generator):
        who = "AttnGAN" if config.refinement == "attention" else "DM-GAN"
        sides = ", ".join(map(str, config.image_sizes))
        return (
            f"{who} generator for resolutions {sides}; base_channels {config.base_channels}, residual_blocks "
            f"{config.residual_blocks}, words of {config.word_channels} channels"
        )
    if isinstance(model, Discriminator):
        norm = "batch norms" if config.batch_norm else f"spectral norm ({config.spectral_norm})"
        return f"discriminator for resolution {config.image_size}; base_channels {config.base_channels}, {norm}"
    if isinstance(model, TextEncoder):
        return f"text encoder ({config.rnn}) of {config.vocabulary_size} words, {config.word_channels} channels"
    assert isinstance(model, ImageEncoder)
    return f"image encoder ({config.kind}), {config.channels} channels"


def _unknown(tensors: Mapping[str, Any]) -> str:
    if not tensors:
        return "no tensors in it, so it is none of the weights that can be imported"
    names = list(tensors)
    if any(name.endswith("train_step") or ".train_step." in f".{name}" for name in names):
        return "a checkpoint of a run of this library; it needs no import: --weights RUN --step N"
    if any("Mixed_7c" in name for name in names):
        return (
            "an Inception-v3 without the heads of an image encoder; `pretrain --set inception_weights=FILE` starts "
            "from it"
        )
    shown = ", ".join(names[:4])
    return (
        f"no model of the family in it (generator, discriminator, text encoder, image encoder of DM-GAN or AttnGAN); "
        f"its tensors are {shown}{', ...' if len(names) > 4 else ''}"
    )


# --------------------------------------------------------------------------------------------------- all files together


def _name(name: str) -> str:
    side = name.removeprefix(DISCRIMINATOR)
    return f"discriminator for resolution {side}" if side != name else name.replace("_", " ")


def _check(found: Imported, origins: dict[str, str]) -> None:
    """Raise unless the parts belong together."""
    models: dict[str, Any] = found.models
    if not models:
        raise InputError("import: a vocabulary alone; give weights too")
    text, words = models.get("text_encoder"), found.vocabulary
    if text is not None and words is None:
        raise CheckpointError(
            f"{origins['text_encoder']}: the text encoder knows {text.config.vocabulary_size} words by their "
            "numbers only, and no file says which words these are; give the captions.pickle of those who trained it "
            "(or --vocabulary)"
        )
    if text is not None and words is not None and text.config.vocabulary_size != len(words):
        raise CheckpointError(
            f"{origins['text_encoder']} has {text.config.vocabulary_size} words, {origins['vocabulary']} has "
            f"{len(words)}: they do not belong together; give the captions.pickle of those who trained the encoder"
        )
    widths = {name: _word_channels(model) for name, model in models.items()}
    if len(set(widths.values())) > 1:
        each = "; ".join(f"{_name(name)} ({origins[name]}): {width}" for name, width in widths.items())
        raise CheckpointError(f"these files do not belong together, their words have other numbers of channels: {each}")
    generator = models.get("generator")
    if generator is None:
        return
    beyond = [side for side in _sides(models) if side not in generator.config.image_sizes]
    if beyond:
        sides = ", ".join(map(str, generator.config.image_sizes))
        name = f"{DISCRIMINATOR}{beyond[0]}"
        raise CheckpointError(
            f"{origins[name]} judges images of resolution {beyond[0]}, but {origins['generator']} generates {sides}; "
            "they do not belong together"
        )


def _word_channels(model: Any) -> int:
    names = {Generator: "word_channels", TextEncoder: "word_channels", Discriminator: "sentence_channels"}
    width: int = getattr(
        model.config, next((name for kind, name in names.items() if isinstance(model, kind)), "channels")
    )
    return width


def _sides(models: Mapping[str, Any]) -> list[int]:
    return [model.config.image_size for model in models.values() if isinstance(model, Discriminator)]


def _say_what_is_missing(found: Imported) -> None:
    needed = {
        "generator": "sample, evaluate and export",
        "text_encoder": "sample, train and evaluate",
        "image_encoder": "train (--damsm) and R-precision",
    }
    for name, use in needed.items():
        if name not in found.models:
            found.missing.append(f"no {_name(name)}, which {use} need")
    generator: Any = found.models.get("generator")
    without = (
        [s for s in generator.config.image_sizes if s not in _sides(found.models)] if generator is not None else []
    )
    if without:
        sides = ", ".join(map(str, without))
        found.missing.append(f"no discriminators for resolutions {sides}, so `train --init-from` starts them fresh")
