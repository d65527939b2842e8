"""Import and export of the authors' state dicts; widths and depths are read off the tensors.

Files saved before PyTorch 0.4.1 have no `num_batches_tracked`; they import with counters at zero, and
`batch_counters=False` exports without them again.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from dmgan_fast.compat.files import StateDict, find_model
from dmgan_fast.compat.names import (
    GENERATOR,
    IMAGE_ENCODER,
    TEXT_ENCODER,
    Rule,
    batch_norm_discriminator,
    discriminator,
    translate,
)
from dmgan_fast.data.vocabulary import Vocabulary
from dmgan_fast.errors import CheckpointError, DMGANError
from dmgan_fast.files import replace_file
from dmgan_fast.modules import (
    AttnGenerator,
    Discriminator,
    DiscriminatorConfig,
    Generator,
    GeneratorConfig,
    ImageEncoder,
    ImageEncoderConfig,
    TextEncoder,
    TextEncoderConfig,
)
from dmgan_fast.modules.discriminator import FEATURE_SIDE
from dmgan_fast.modules.pretrained import UNKNOWN_WORDS, check_shapes
from dmgan_fast.sampling.bundle import MODELS, latest_bundle, open_bundle

COUNTER = "num_batches_tracked"

_log = logging.getLogger("dmgan_fast.runs")


Import = TypeVar("Import", bound=Callable[..., Any])


def _plainly(what: str) -> Callable[[Import], Import]:
    """Tensors of odd shapes fail anywhere in the work of an import: all of it becomes ``CheckpointError``."""

    def wrap(function: Import) -> Import:
        @wraps(function)
        def run(*args: Any, **options: Any) -> Any:
            try:
                return function(*args, **options)
            except DMGANError:
                raise
            except ValidationError as error:
                reason = "; ".join(item["msg"].removeprefix("Value error, ") for item in error.errors())
                raise CheckpointError(f"not the authors' {what}: {reason}") from None
            except (RuntimeError, ValueError, TypeError, IndexError, ArithmeticError, StopIteration) as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise CheckpointError(f"not the authors' {what}: its tensors have odd shapes ({reason})") from None

        return cast(Import, run)

    return wrap


@_plainly("generator")
def import_generator(
    state_dict: Mapping[str, Tensor], *, mask_mode: str = "official", detach_image_mean: bool = True
) -> Generator:
    """The authors' ``G_NET``, DM-GAN's or AttnGAN's, as a ``Generator``, in evaluation mode; dtype is kept.

    AttnGAN's comes as an ``AttnGenerator``; one of a single resolution has no attention to know it by.

    Raises:
        CheckpointError: naming the keys or shapes that are not those of a generator.
    """
    state = find_model(_without_prefix(state_dict), "generator")
    head = _get(state, "img_net1.img.0.weight", "generator")
    conditions = _get(state, "ca_net.fc.weight", "generator")
    base, condition_channels = head.shape[1], conditions.shape[0] // 4
    stages = sum(key.startswith("img_net") for key in state)
    attention = "h_net2.att.conv_context.weight" in state
    config = GeneratorConfig(
        image_sizes=tuple(64 * 2**k for k in range(stages)),
        base_channels=base,
        word_channels=conditions.shape[1],
        condition_channels=condition_channels,
        noise_channels=_get(state, "h_net1.fc.0.weight", "generator").shape[1] - condition_channels,
        residual_blocks=max(1, sum(k.startswith("h_net2.residual.") and k.endswith("block.0.weight") for k in state)),
        mask_mode=mask_mode,  # type: ignore[arg-type]  # validated by the configuration
        detach_image_mean=detach_image_mean,
        refinement="attention" if attention else "memory",
    )
    model = AttnGenerator(config) if attention else Generator(config)
    _fill(model, GENERATOR, state)
    return model.eval()


def export_generator(model: Generator, *, batch_counters: bool = True) -> StateDict:
    """The authors' names and shapes for a generator's tensors; AttnGAN's for one with attention.

    Raises:
        CheckpointError: for a generator that neither of them has: a memory without a gate, or text left out.
    """
    config = model.config
    gates = config.refinement == "attention" or (config.writing_gate and config.response_gate)
    if not gates or config.text != "both":
        raise CheckpointError(
            "export_generator: the authors have no such generator; this one has "
            f"writing_gate={config.writing_gate}, response_gate={config.response_gate}, text={config.text!r}"
        )
    return _export(model, GENERATOR, batch_counters)


@_plainly("discriminator")
def import_discriminator(state_dict: Mapping[str, Tensor], *, spectral_norm: str = "official") -> Discriminator:
    """The authors' ``D_NET64``, ``D_NET128``, ``D_NET256`` or larger as a ``Discriminator``, in evaluation mode.

    AttnGAN's have batch norms and no spectral norm; ``spectral_norm`` is then not looked at.
    """
    state = find_model(_without_prefix(state_dict), "discriminator")
    batch_norm = "img_code_s16.0.weight" in state
    weight = "weight" if batch_norm else "module.weight_bar"
    first = _get(state, f"img_code_s16.0.{weight}", "discriminator")
    joint = _get(state, f"COND_DNET.jointConv.0.{weight}", "discriminator")
    halvings = 4
    while f"img_code_s{2 ** (halvings + 1)}.0.{weight}" in state:
        halvings += 1
    config = DiscriminatorConfig(
        image_size=FEATURE_SIDE * 2**halvings,
        base_channels=first.shape[0],
        sentence_channels=joint.shape[1] - joint.shape[0],
        spectral_norm="none" if batch_norm else spectral_norm,  # type: ignore[arg-type]  # validated there
        batch_norm=batch_norm,
    )
    model = Discriminator(config)
    _fill(model, _discriminator_rules(model), state)
    return model.eval()


def export_discriminator(model: Discriminator, *, batch_counters: bool = True) -> StateDict:
    """The authors' names and shapes for a discriminator's tensors, ``*_bar``, ``*_u`` and ``*_v`` included.

    One with batch norms gets AttnGAN's names.

    Raises:
        CheckpointError: for a discriminator without any norm, which theirs cannot hold.
    """
    if model.config.spectral_norm == "none" and not model.config.batch_norm:
        raise CheckpointError(
            "export_discriminator: the authors' discriminators have spectral norm, or batch norms as AttnGAN's; "
            "this one has none"
        )
    return _export(model, _discriminator_rules(model), batch_counters)


def _discriminator_rules(model: Discriminator) -> list[Rule]:
    return (batch_norm_discriminator if model.config.batch_norm else discriminator)(len(model.down))


@_plainly("text encoder")
def import_text_encoder(state_dict: Mapping[str, Tensor], *, vocabulary: Vocabulary | None = None) -> TextEncoder:
    """The authors' ``RNN_ENCODER`` (LSTM or GRU) as a ``TextEncoder``, in evaluation mode.

    Args:
        state_dict: its tensors.
        vocabulary: the words that it was trained with, which the tensors do not tell; given here, it is taken at your
            word. None: it must be one from the authors' ``captions.pickle`` later on.

    Raises:
        CheckpointError: for another model, or a vocabulary of another size.
    """
    state = find_model(_without_prefix(state_dict), "text encoder")
    embedding = _get(state, "encoder.weight", "text encoder")
    inputs = _get(state, "rnn.weight_ih_l0", "text encoder")
    hidden = _get(state, "rnn.weight_hh_l0", "text encoder").shape[1]
    gates = inputs.shape[0] // hidden
    if gates not in (3, 4) or "rnn.weight_ih_l0_reverse" not in state:
        raise CheckpointError(
            "import_text_encoder: expected a bidirectional LSTM (4 gates) or GRU (3 gates), "
            f"got {gates} gates and {'two directions' if 'rnn.weight_ih_l0_reverse' in state else 'one direction'}"
        )
    config = TextEncoderConfig(
        vocabulary_size=embedding.shape[0],
        word_channels=2 * hidden,
        embedding_channels=embedding.shape[1],
        rnn="lstm" if gates == 4 else "gru",
        layers=sum(f"rnn.weight_ih_l{k}" in state for k in range(len(state))),
    )
    if vocabulary is not None and len(vocabulary) != config.vocabulary_size:
        raise CheckpointError(
            f"import_text_encoder: the encoder was trained with {config.vocabulary_size} words, the vocabulary has "
            f"{len(vocabulary)}; take the captions.pickle of its authors"
        )
    model = TextEncoder(config)
    _fill(model, TEXT_ENCODER, state)
    model.vocabulary_fingerprint = UNKNOWN_WORDS if vocabulary is None else vocabulary.fingerprint
    return model.eval()


def export_text_encoder(model: TextEncoder) -> StateDict:
    """The authors' names for a text encoder's tensors."""
    return _export(model, TEXT_ENCODER, True)


@_plainly("image encoder")
def import_image_encoder(state_dict: Mapping[str, Tensor]) -> ImageEncoder:
    """The authors' ``CNN_ENCODER`` (Inception-v3) as an ``ImageEncoder``, in evaluation mode."""
    state = find_model(_without_prefix(state_dict), "image encoder")
    channels = _get(state, "emb_features.weight", "image encoder").shape[0]
    model = ImageEncoder(ImageEncoderConfig(kind="inception", channels=channels))
    _fill(model, IMAGE_ENCODER, state)
    return model.eval()


def export_image_encoder(model: ImageEncoder, *, batch_counters: bool = True) -> StateDict:
    """The authors' names for an Inception image encoder's tensors.

    Raises:
        CheckpointError: for a compact encoder, which the authors' code does not have.
    """
    if model.config.kind != "inception":
        raise CheckpointError(
            f"export_image_encoder: the authors' encoder is Inception-v3, this one is {model.config.kind}"
        )
    return _export(model, IMAGE_ENCODER, batch_counters)


def export_bundle(
    folder: str | os.PathLike[str], out: str | os.PathLike[str], *, step: str | int | None = None
) -> list[Path]:
    """Write a run's weights for the authors' code: ``netG.pth``, ``netD0.pth`` and so on, and the encoders.

    Args:
        folder: a run or its weights; the models that are there are written. A run's discriminators are those of its
            latest checkpoint.
        out: folder; the files are in PyTorch's old format, which their PyTorch 0.4 reads.
        step: of a run: a checkpoint's step, or ``"best"``.

    Raises:
        CheckpointError: for a model that the authors' code does not have; nothing is then written. Discriminators
            without any norm, which it does not have either, are left out with a warning.
    """
    bundle = open_bundle(folder, step=step, words=False)
    judges = bundle if bundle.sides() or step is not None else latest_bundle(folder) or bundle
    states: dict[str, StateDict] = {}
    if bundle.has("generator"):
        states["netG.pth"] = export_generator(bundle.generator())
    for number, side in enumerate(judges.sides()):
        judge = judges.discriminator(side)
        if judge.config.spectral_norm == "none" and not judge.config.batch_norm:
            _log.warning("export: the discriminator for resolution %d has no norm; the authors have no such one", side)
            continue
        states[f"netD{number}.pth"] = export_discriminator(judge)
    if bundle.has("text_encoder"):
        states["text_encoder.pth"] = export_text_encoder(bundle.text_encoder())
    if bundle.has("image_encoder"):
        states["image_encoder.pth"] = export_image_encoder(bundle.image_encoder())
    if not states:
        raise CheckpointError(f"no weights at {str(folder)!r}: none of {', '.join(MODELS)} is there")
    for name, state in states.items():
        with replace_file(Path(out) / name) as temporary:
            torch.save(state, temporary, _use_new_zipfile_serialization=False)
    return [Path(out) / name for name in states]


def _without_prefix(state: Mapping[str, Tensor]) -> StateDict:
    """Drop the ``module.`` that data-parallel wrappers put before every key."""
    wrapped = bool(state) and all(key.startswith("module.") for key in state)
    return {key.removeprefix("module.") if wrapped else key: value for key, value in state.items()}


def _get(state: StateDict, key: str, what: str) -> Tensor:
    if key not in state:
        found = ", ".join(list(state)[:4]) or "nothing"
        raise CheckpointError(f"not the authors' {what}: key {key!r} is missing; found {found}, ...")
    return state[key]


def _fill(model: nn.Module, rules: list[Rule], state: StateDict) -> None:
    """Load the authors' tensors into ``model``, which takes their dtype."""
    own = model.state_dict()
    names = translate(rules, own)
    counters = {theirs for theirs, _ in names.values() if theirs.endswith(COUNTER) and theirs not in state}
    expected = {theirs: reshape(list(own[key].shape)) for key, (theirs, reshape) in names.items()}
    check_shapes(
        {theirs: shape for theirs, shape in expected.items() if theirs not in counters},
        {key: list(value.shape) for key, value in state.items()},
        type(model).__name__,
        "the authors' state dict",
    )
    model.to(next(value.dtype for value in state.values() if value.is_floating_point()))
    model.load_state_dict(
        {
            key: own[key] if theirs in counters else state[theirs].reshape(own[key].shape)
            for key, (theirs, _) in names.items()
        }
    )


def _export(model: nn.Module, rules: list[Rule], batch_counters: bool) -> StateDict:
    state = model.state_dict()
    return {
        theirs: state[key].detach().clone().reshape(reshape(list(state[key].shape)))
        for key, (theirs, reshape) in translate(rules, state).items()
        if batch_counters or not key.endswith(COUNTER)
    }
