"""Models that know their configuration and live in a folder: `config.json` beside `model.safetensors`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from huggingface_hub import ModelCard, PyTorchModelHubMixin
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from typing_extensions import Self

from dmgan_fast.config import load_config, to_dict
from dmgan_fast.errors import CheckpointError, DMGANError, InputError
from dmgan_fast.files import load_json, replace_file, require_regular, write_text
from dmgan_fast.foreign import what_is
from dmgan_fast.modules import model_card

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
CARD_NAME = "README.md"
FINGERPRINT_KEY = "vocabulary_fingerprint"
DOWNLOAD = ("revision", "cache_dir", "force_download", "local_files_only", "token")  # of huggingface_hub
UNKNOWN_WORDS = "unknown"  # of imported weights, until it is said which vocabulary they were trained with


class PretrainedModel(nn.Module, PyTorchModelHubMixin, library_name="dmgan_fast", license="mit"):
    """Base of every model: ``save_pretrained``, ``from_pretrained`` (a folder or a Hub id), ``push_to_hub``.

    The last two also write a model card; ``model_card_kwargs`` are those of ``modules.model_card.write``, as
    ``{"metrics": {"FID": 16.09}, "dataset": "CUB"}``.

    ``vocabulary_fingerprint``: of the words it was trained with; None if it does not say.
    """

    config_class: ClassVar[type]
    config: Any
    vocabulary_fingerprint: str | None = None

    def _save_pretrained(self, save_directory: Path) -> None:
        config = {"model": self._kind(), **to_dict(self.config)}
        if self.vocabulary_fingerprint is not None:
            config[FINGERPRINT_KEY] = self.vocabulary_fingerprint
        tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in self.state_dict().items()}
        with replace_file(save_directory / WEIGHTS_NAME) as temporary:
            save_file(tensors, temporary, metadata={"format": "pt"})
        write_text(save_directory / CONFIG_NAME, json.dumps(config, indent=2) + "\n")

    def save_pretrained(self, save_directory: str | os.PathLike[str], **options: Any) -> str | None:
        """As ``PyTorchModelHubMixin.save_pretrained``, whose options these are, and whose result.

        A model that is saved again is whole at every moment, for those who read its folder meanwhile.
        """
        folder = Path(save_directory)
        if options or not all((folder / name).exists() for name in (CONFIG_NAME, CARD_NAME)):
            found: str | None = super().save_pretrained(folder, **options)
            return found
        self._save_pretrained(folder)  # the Hub's own takes the configuration away first
        return None

    def generate_model_card(self, *args: Any, **options: Any) -> ModelCard:
        """The model card; see ``modules.model_card.write``."""
        return model_card.write(self._hub_mixin_info.model_card_data, self._kind(), to_dict(self.config), **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload as ``PyTorchModelHubMixin.push_to_hub``, whose options these are; the model card names ``repo_id``.

        Raises:
            CheckpointError: if the Hub refuses or can't be reached.
        """
        card = {"name": repo_id, **(options.pop("model_card_kwargs", None) or {})}
        try:
            return str(super().push_to_hub(repo_id, model_card_kwargs=card, **options))
        except DMGANError:
            raise
        except Exception as error:  # the Hub client raises many unrelated types
            raise CheckpointError(f"{repo_id!r} could not be uploaded: {' '.join(str(error).split())}") from error

    @classmethod
    def from_pretrained(  # type: ignore[override]  # a folder of our own format, with plain errors
        cls, source: str | os.PathLike[str], *, map_location: str = "cpu", subfolder: str = "", **download: Any
    ) -> Self:
        """Load a model in evaluation mode.

        Args:
            source: a folder written by ``save_pretrained``, or a Hub id ``owner/name``.
            map_location: device.
            subfolder: of it, where the model is, as ``"generator"`` in the weights of a run.
            download: ``revision``, ``cache_dir``, ``force_download``, ``local_files_only``, ``token``, which mean what
                they mean to ``huggingface_hub``, and nothing for a folder.

        Raises:
            CheckpointError: if a file is missing, unreadable or does not fit this model.
            InputError: for an option that is not among these.
        """
        check_download(download, "map_location", "subfolder")
        config_file = cls._find(str(source), subfolder, CONFIG_NAME, download)
        weights_file = cls._find(str(source), subfolder, WEIGHTS_NAME, download)
        config, fingerprint = cls.read_config(config_file)
        model = cls(config)
        model.vocabulary_fingerprint = fingerprint
        try:
            tensors = load_file(weights_file, device=map_location)
        except (OSError, SafetensorError) as error:
            found = what_is(weights_file)
            reason = f"it is {found}" if found else error
            raise CheckpointError(f"{weights_file}: not a readable safetensors file: {reason}") from None
        load_weights(model, tensors, where=str(weights_file))
        return model.eval().to(map_location)

    @classmethod
    def read_config(cls, file: Path) -> tuple[Any, str | None]:
        """The configuration in ``config.json``, and the fingerprint of the model's vocabulary if it says.

        Raises:
            CheckpointError: if the file is missing, unreadable or of another model.
        """
        try:
            require_regular(file)
            values = load_json(file)
            kind = values.pop("model", cls._kind())
            fingerprint = values.pop(FINGERPRINT_KEY, None)
        except FileNotFoundError:
            raise CheckpointError(f"{file.parent} is not a saved model: it has no {file.name}") from None
        except (OSError, ValueError, AttributeError, TypeError) as error:
            found = what_is(file) if file.is_file() else None
            raise CheckpointError(
                f"{file}: not a readable model configuration: {f'it is {found}' if found else error}"
            ) from None
        if kind != cls._kind():
            raise CheckpointError(f"{file} describes a {kind}, but a {cls._kind()} was asked for")
        return load_config(cls.config_class, values, where=str(file)), fingerprint

    @classmethod
    def _kind(cls) -> str:
        """The model's name in config.json; a subclass with the same settings is saved as its parent."""
        return cls.config_class.__name__.removesuffix("Config")

    @staticmethod
    def _find(model_id: str, subfolder: str, name: str, download: dict[str, Any]) -> Path:
        folder = Path(model_id)
        if folder.is_dir():
            folder = folder / subfolder
            if not (folder / name).is_file():
                raise CheckpointError(f"{folder} is not a saved model: it has no {name}")
            return folder / name
        if folder.is_absolute() or model_id.count("/") != 1:
            raise CheckpointError(f"{model_id!r} is neither a folder with a saved model nor a Hub id (owner/name)")
        return fetch(model_id, subfolder, name, download)


def check_download(download: Mapping[str, Any], *others: str) -> None:
    """Raise ``InputError`` for an option of ``from_pretrained`` that neither the Hub's client nor ``others`` know."""
    unknown = set(download) - set(DOWNLOAD)
    if unknown:
        known = (*others, *DOWNLOAD)
        raise InputError(f"from_pretrained takes {', '.join(known)}, got {', '.join(sorted(unknown))}")


def fetch(hub_id: str, subfolder: str, name: str, download: Mapping[str, Any]) -> Path:
    """A file of a repository on the Hub, in the client's cache.

    Raises:
        CheckpointError: if the Hub does not have it, refuses or can't be reached.
    """
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(hub_id, name, subfolder=subfolder or None, **download))
    except Exception as error:  # the Hub client raises many unrelated types
        said = " ".join(str(error).split())
        raise CheckpointError(f"{hub_id!r} is no local folder and {name} could not be fetched: {said}") from error


def load_weights(model: nn.Module, tensors: Mapping[str, torch.Tensor], where: str) -> None:
    """Load a state dict strictly.

    Raises:
        CheckpointError: naming the missing and the unexpected keys and the shapes that differ; ``model`` is untouched.
    """
    expected = {key: list(value.shape) for key, value in model.state_dict().items()}
    check_shapes(expected, {key: list(value.shape) for key, value in tensors.items()}, type(model).__name__, where)
    model.load_state_dict(tensors)


def check_shapes(expected: dict[str, list[int]], given: dict[str, list[int]], what: str, where: str) -> None:
    """Raise ``CheckpointError`` unless both hold the same keys with the same shapes."""
    problems = [f"missing {key}" for key in expected if key not in given]
    problems += [f"unexpected {key}" for key in given if key not in expected]
    problems += [
        f"{key} is {given[key]}, the model has {shape}"
        for key, shape in expected.items()
        if key in given and given[key] != shape
    ]
    if problems:
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise CheckpointError(f"{where} does not fit {what}: {shown}")
