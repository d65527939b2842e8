"""A folder of weights that belong together: encoders, generator, vocabulary and a model card; and checkpoints as such.

An encoder knows words by their indices only. Weights therefore carry the fingerprint of their vocabulary, and whatever
is saved or opened together is compared first.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from dmgan_fast.config import load_config
from dmgan_fast.data.vocabulary import Vocabulary
from dmgan_fast.errors import CheckpointError, InputError
from dmgan_fast.files import load_json, write_text
from dmgan_fast.modules import Discriminator, Generator, ImageEncoder, ImageEncoderConfig, TextEncoder
from dmgan_fast.modules.pretrained import CONFIG_NAME, UNKNOWN_WORDS, WEIGHTS_NAME, PretrainedModel, load_weights
from dmgan_fast.runs.checkpoints import find_checkpoint, is_checkpoint, latest_checkpoint, load_checkpoint, steps_of
from dmgan_fast.runs.config import PretrainConfig, TrainConfig

VOCABULARY_NAME = "vocabulary.json"
SHIPPED = Path(__file__).parent.parent / "weights" / "demo"
BEST, CHECKPOINTS, WEIGHTS = "best", "checkpoints", "weights"  # folders of a run
MODELS: dict[str, type[PretrainedModel]] = {
    "generator": Generator,
    "text_encoder": TextEncoder,
    "image_encoder": ImageEncoder,
}
DISCRIMINATOR = "discriminator_"  # and the resolution
BEST_NAME = "best.json"


def save_bundle(
    folder: str | os.PathLike[str], *, vocabulary: Vocabulary | None, card: str, **models: PretrainedModel
) -> None:
    """Write ``folder/<name>/`` for each model, ``vocabulary.json`` and ``README.md``.

    A text encoder and what is saved beside it take the vocabulary's fingerprint.

    Args:
        vocabulary: of the text encoder; None only without one.
        card: the model card's text.
        models: ``generator``, ``text_encoder``, ``image_encoder``, ``discriminator_64`` and so on.

    Raises:
        CheckpointError: if vocabulary and models do not belong together, or it is not known whose words an imported
            text encoder knows; nothing is then written.
    """
    path = Path(folder)
    text_encoder = models.get("text_encoder")
    if text_encoder is not None:
        if vocabulary is None:
            raise CheckpointError(f"{path}: a text encoder needs the vocabulary that it was trained with")
        check_words(vocabulary, models, str(path))
        for model in models.values():
            model.vocabulary_fingerprint = vocabulary.fingerprint
    for name, model in models.items():
        (path / name).mkdir(parents=True, exist_ok=True)
        model.save_pretrained(path / name)
    if vocabulary is not None:
        vocabulary.save(path / VOCABULARY_NAME)
    write_text(path / "README.md", f"# Model card\n\n{card}")


def check_words(vocabulary: Vocabulary, models: dict[str, PretrainedModel], where: str) -> None:
    """Raise ``CheckpointError`` unless these models can have been trained with this vocabulary."""
    text_encoder = models.get("text_encoder")
    if isinstance(text_encoder, TextEncoder):
        _check_size(text_encoder.config.vocabulary_size, vocabulary, where)
    for name, model in models.items():
        _check_fingerprint(model.vocabulary_fingerprint, vocabulary, name, where)


def _check_size(words: int, vocabulary: Vocabulary, where: str) -> None:
    if words != len(vocabulary):
        raise CheckpointError(
            f"{where}: text_encoder was trained with {words} words, but the vocabulary beside it has "
            f"{len(vocabulary)}, so they do not belong together; take the vocabulary of the weights: their "
            "captions.pickle (`dmgan-fast import FILES captions.pickle`), or the vocabulary.json saved with them"
        )


def _check_fingerprint(fingerprint: str | None, vocabulary: Vocabulary, name: str, where: str) -> None:
    if fingerprint == UNKNOWN_WORDS and vocabulary.made_here and name == "text_encoder":
        raise CheckpointError(
            f"{where}: the imported text_encoder does not say which words it was trained with, and this vocabulary of "
            f"{len(vocabulary)} words was numbered here, from the data's captions, so its numbers mean other words to "
            "it; take the captions.pickle of its authors, or if the vocabulary is right all the same, say so: "
            "import_text_encoder(state, vocabulary=...)"
        )
    if fingerprint not in (None, UNKNOWN_WORDS, vocabulary.fingerprint):
        raise CheckpointError(
            f"{where}: {name} was trained with the words of another vocabulary (fingerprint {fingerprint[:12]}) than "
            f"the one beside it ({len(vocabulary)} words, {vocabulary.fingerprint[:12]}); take the vocabulary.json or "
            "captions.pickle that belongs to the weights"
        )


class Stored(NamedTuple):
    """One model of a bundle: its configuration, what it says of its vocabulary, and its tensors."""

    config: Any
    fingerprint: str | None
    tensors: dict[str, Any] | None  # None: in a folder of its own


class Bundle:
    """Weights that belong together: a folder of models, or a checkpoint with what its run keeps beside it.

    Made by ``open_bundle``, which has checked that vocabulary and models belong together.
    """

    def __init__(self, folder: Path, checkpoint: Path | None = None) -> None:
        self.folder, self.checkpoint = folder, checkpoint

    def __str__(self) -> str:
        return str(self.checkpoint or self.folder)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The words, in the order of their indices."""
        return Vocabulary.load(self.folder / VOCABULARY_NAME)

    def has(self, name: str) -> bool:
        """Whether a model of this name, or ``vocabulary.json``, is there."""
        return name in self._saved or (self.folder / name).exists()

    def files(self, *names: str) -> list[Path]:
        """The files that hold these models and the vocabulary."""
        held = {name for name in names if name in self._saved}
        saved = self.checkpoint if held else None
        files = [] if saved is None else sorted(saved.iterdir()) if saved.is_dir() else [saved]
        files += [self.folder / n / file for n in names if n not in held for file in (CONFIG_NAME, WEIGHTS_NAME)]
        return [*files, self.folder / VOCABULARY_NAME]

    def generator(self, device: str = "cpu") -> Generator:
        """The averaged generator, in evaluation mode."""
        return self._model("generator", Generator, device)

    def text_encoder(self, device: str = "cpu") -> TextEncoder:
        """The text encoder, in evaluation mode."""
        return self._model("text_encoder", TextEncoder, device)

    def image_encoder(self, device: str = "cpu") -> ImageEncoder:
        """The image encoder, in evaluation mode."""
        return self._model("image_encoder", ImageEncoder, device)

    def image_encoder_config(self) -> ImageEncoderConfig:
        """Its settings alone."""
        config: ImageEncoderConfig = self._stored("image_encoder", ImageEncoder).config
        return config

    def sides(self) -> list[int]:
        """Resolutions for which a discriminator is there, smallest first."""
        here = {*self._saved, *(path.name for path in self.folder.glob(f"{DISCRIMINATOR}*"))}
        found = (name.removeprefix(DISCRIMINATOR) for name in here if name.startswith(DISCRIMINATOR))
        return sorted(int(side) for side in found if side.isdigit())

    def discriminator(self, side: int, device: str = "cpu") -> Discriminator:
        """The discriminator for images of this resolution, in evaluation mode."""
        return self._model(f"{DISCRIMINATOR}{side}", Discriminator, device)

    def check(self) -> None:
        """Raise ``CheckpointError`` unless vocabulary and models belong together; reads no weights."""
        if not (self.folder / VOCABULARY_NAME).is_file():
            return
        stored = {name: self._stored(name, kind) for name, kind in MODELS.items() if self.has(name)}
        if "text_encoder" in stored:
            _check_size(stored["text_encoder"].config.vocabulary_size, self.vocabulary, str(self))
            if stored["text_encoder"].fingerprint == UNKNOWN_WORDS:  # saved by itself, and put beside a vocabulary
                raise CheckpointError(
                    f"{self}: the imported text_encoder does not say which words it was trained with, and nobody has "
                    f"said that they are those of {self.folder / VOCABULARY_NAME}; save both with save_bundle, or "
                    "import the published files again: `dmgan-fast import FILES captions.pickle`"
                )
        for name, model in stored.items():
            _check_fingerprint(model.fingerprint, self.vocabulary, name, str(self))

    # What a checkpoint holds

    @cached_property
    def _saved(self) -> dict[str, Stored]:
        """Models in the checkpoint, by name."""
        if self.checkpoint is None:
            return {}
        saved = load_checkpoint(self.checkpoint, mmap=True)
        where, fingerprint = str(self.checkpoint), saved.get("vocabulary_fingerprint")
        if saved["kind"] == "gan":
            config = load_config(TrainConfig, saved["config"], where=where)
            states = saved["task"]["train_step"]
            average = {key.removeprefix("module."): value for key, value in states["average"].items()}
            found = {"generator": Stored(config.generator, fingerprint, average)}
            for side, state in zip(config.generator.image_sizes, states["discriminators"], strict=True):
                found[f"{DISCRIMINATOR}{side}"] = Stored(config.discriminator(side), fingerprint, state)
            return found
        pretrained = load_config(PretrainConfig, saved["config"], where=where)
        task = saved["task"]
        words = len(task["text_encoder"]["embedding.weight"])
        return {
            "text_encoder": Stored(pretrained.text_encoder(words), fingerprint, task["text_encoder"]),
            "image_encoder": Stored(pretrained.image_encoder, fingerprint, task["image_encoder"]),
        }

    def _stored(self, name: str, kind: type[PretrainedModel]) -> Stored:
        if name in self._saved:
            return self._saved[name]
        return Stored(*kind.read_config(self.folder / name / CONFIG_NAME), None)

    def _model(self, name: str, kind: Any, device: str) -> Any:
        stored = self._saved.get(name)
        if stored is None:
            return kind.from_pretrained(self.folder / name, map_location=device)
        model: PretrainedModel = kind(stored.config)
        load_weights(model, stored.tensors or {}, where=f"{name} in {self.checkpoint}")
        model.vocabulary_fingerprint = stored.fingerprint
        return model.eval().to(device)


def open_bundle(
    weights: str | os.PathLike[str] | Bundle | None, *needed: str, step: str | int | None = None, words: bool = True
) -> Bundle:
    """Weights of a run, of a checkpoint, or of a folder of models.

    Args:
        weights: a run, its ``weights/`` or ``best/``, any folder of models, or a file in a run's ``checkpoints/``;
            None: the weights shipped with the package.
        needed: models that must be there.
        step: of a run: the number of a checkpoint, or ``"best"``; None: its weights.
        words: whether the vocabulary must be there too.

    Raises:
        CheckpointError: naming what is missing, the steps that are there, or what does not belong together.
    """
    if isinstance(weights, Bundle):
        return weights
    path = Path(SHIPPED if weights is None else weights)
    if is_checkpoint(path):
        if step is not None:
            raise InputError(
                f"{path} is a checkpoint of one step already; give its run, {path.parent.parent}, and a step"
            )
        bundle = _checkpoint_bundle(path)
    elif step is None:
        bundle = Bundle(_folder(path))
    elif str(step) == BEST:
        bundle = Bundle(_best(path))
    else:
        bundle = _checkpoint_bundle(_step(path, step))
    wanted = (*((VOCABULARY_NAME,) if words else ()), *needed)
    missing = [name for name in wanted if not bundle.has(name)]
    if missing:
        raise CheckpointError(_missing(bundle, weights, missing))
    bundle.check()
    return bundle


def _folder(path: Path) -> Path:
    """``path`` itself or its ``weights/``, whichever holds models."""
    inside = path / WEIGHTS
    return inside if any((inside / name).exists() for name in (VOCABULARY_NAME, *MODELS)) else path


def _missing(bundle: Bundle, weights: str | os.PathLike[str] | None, missing: Sequence[str]) -> str:
    if bundle.checkpoint is not None:
        return (
            f"{bundle.checkpoint}: {', '.join(missing)} is neither in this checkpoint nor in {bundle.folder}, "
            "where its run keeps what it does not train"
        )
    return f"no weights at {str(weights)!r}: {', '.join(missing)} missing there (and in weights/)"


def _checkpoint_bundle(file: Path) -> Bundle:
    return Bundle(_folder(file.parent.parent), file)


def _run(path: Path) -> Path:
    """The run that ``path`` is or lies in."""
    for run in (path, path.absolute().parent):
        if (run / CHECKPOINTS).is_dir() or (run / BEST).is_dir():
            return run
    raise CheckpointError(
        f"--step: {str(path)!r} is not a run: it has no {CHECKPOINTS}/, so it has one set of weights only"
    )


def _best(path: Path) -> Path:
    run = _run(path)
    if not (run / BEST).is_dir():
        raise CheckpointError(
            f"--step best: {run} kept no best weights; it measured nothing (loop.measure_every=0, or it is older than "
            f"that); there are {_steps(run)}"
        )
    return run / BEST


def _step(path: Path, step: str | int) -> Path:
    run = _run(path)
    text = str(step)
    if not text.isascii() or not text.isdigit():
        raise InputError(f"--step must be the number of a step or best, got {text!r}; there are {_steps(run)}")
    file = find_checkpoint(run / CHECKPOINTS, int(text))
    if file is None:
        raise CheckpointError(f"--step {text}: {run} has no checkpoint of that step; there are {_steps(run)}")
    return file


def _steps(run: Path) -> str:
    found = [*map(str, steps_of(run / CHECKPOINTS)), *([_describe_best(run)] if (run / BEST).is_dir() else [])]
    return ", ".join(found) or "none"


def _describe_best(run: Path) -> str:
    try:
        return f"best (step {load_json(run / BEST / BEST_NAME)['step']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "best"


def latest_bundle(run: str | os.PathLike[str]) -> Bundle | None:
    """The latest checkpoint of a run; None if ``run`` holds none."""
    file = latest_checkpoint(Path(run) / CHECKPOINTS)
    return None if file is None else _checkpoint_bundle(file)
