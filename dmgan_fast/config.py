"""Typed, immutable configuration: frozen dataclasses validated by pydantic, with errors that name the nearest key."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

from pydantic import AliasChoices, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from typing_extensions import dataclass_transform

from dmgan_fast.errors import InputError

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def config_dataclass(cls: type[T]) -> type[T]:
    """A frozen, keyword-only dataclass whose values are validated and whose unknown keys are refused."""
    return dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))(cls)  # type: ignore[return-value]


def renamed(default: T, name: str, old: str, **limits: Any) -> T:
    """The field ``name``, which configurations of earlier versions call ``old``; they go on loading."""
    field: T = Field(default, validation_alias=AliasChoices(name, old), **limits)
    return field


def require_positive(config: object, *names: str) -> None:
    """Raise ``InputError`` for the first of these fields that is below 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise InputError(f"{name} must be at least 1, got {getattr(config, name)}")


def load_config(cls: type[T], values: Mapping[str, Any], where: str = "config") -> T:
    """Build ``cls`` from plain values (YAML, JSON, command line).

    Raises:
        InputError: for an unknown key (naming the nearest known one) or a value that is not allowed.
    """
    try:
        return TypeAdapter(cls).validate_python(dict(values))
    except ValidationError as error:
        raise InputError("; ".join(_explain(cls, item, where) for item in error.errors())) from None


def to_dict(config: Any) -> dict[str, Any]:
    """Plain values of a configuration, ready for JSON or YAML."""
    result: dict[str, Any] = TypeAdapter(type(config)).dump_python(config, mode="json")
    return result


def _explain(cls: type, item: Any, where: str) -> str:
    path = [str(part) for part in item["loc"]]
    if item["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = sorted(_keys(cls, path[:-1]))
        near = difflib.get_close_matches(path[-1], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return f"{where}: unknown key {'.'.join(path)!r}; {hint}"
    name = ".".join(path) or cls.__name__
    message = item["msg"].removeprefix("Value error, ")
    given = "" if item["type"] in ("missing", "value_error") else f", got {item['input']!r}"
    return f"{where}: {name}: {message}{given}"


def _keys(cls: type, path: Iterable[str]) -> set[str]:
    """Field names of the configuration class reached by ``path``."""
    for part in path:
        cls = get_type_hints(cls).get(part, cls)
    return {f.name for f in fields(cls)} if is_dataclass(cls) else set()
