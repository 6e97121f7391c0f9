"""Configuration: frozen dataclasses filled from YAML and ``key=value`` overrides.

A configuration is a tree of standard frozen dataclasses. Values come from a YAML
mapping and from dotted overrides (``optimiser.lr=3e-4``); types are checked by
pydantic, and an unknown key is an error that names the nearest known one.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from whatchanged.errors import UsageError

T = TypeVar("T")


def load_config(cls: type[T], path: str | Path, overrides: Iterable[str] = ()) -> T:
    """Read a YAML file into dataclass ``cls``, with dotted ``key=value`` overrides applied last."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"configuration {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"configuration {path} is not UTF-8 text") from error
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise UsageError(f"configuration {path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"configuration {path} is not a mapping of keys to values")
    return from_mapping(cls, apply_overrides(values, overrides), source=str(path))


def from_mapping(cls: type[T], values: Mapping[str, Any], source: str = "configuration") -> T:
    """Build dataclass ``cls`` from nested plain values.

    Raises:
        UsageError: An unknown key (with the nearest known one) or a value of the wrong type.
    """
    _check_keys(cls, values, source)
    try:
        return TypeAdapter(cls).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            f"{source}: '{where}' is {first.get('input')!r}: {first['msg'].lower()}"
        ) from error


def to_mapping(config: Any) -> dict[str, Any]:
    """Return a dataclass tree as nested plain values that YAML and JSON can hold."""
    adapter: TypeAdapter[Any] = TypeAdapter(type(config))
    plain: dict[str, Any] = adapter.dump_python(config, mode="json")
    return plain


def apply_overrides(values: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return ``values`` with each ``dotted.key=yaml-value`` set; the input is left as it is."""
    result = {
        key: dict(value) if isinstance(value, dict) else value for key, value in values.items()
    }
    for override in overrides:
        dotted, equals, text = override.partition("=")
        if not equals or not dotted:
            raise UsageError(f"override '{override}' is not of the form key=value")
        _set(result, dotted.split("."), _scalar(text, override), override)
    return result


def apply_mapping(values: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lay nested plain values over others; what is not named above stays."""
    result = dict(values)
    for key, value in above.items():
        below = result.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            result[key] = apply_mapping(below, value)
        else:
            result[key] = value
    return result


def _scalar(text: str, override: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"override '{override}' is not valid YAML", hint="quote it") from error
    # YAML 1.1 reads a bare 1e-4 as text; people mean a number.
    if isinstance(value, str) and value == text.strip() and value[:1] in set("+-.0123456789"):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _set(target: dict[str, Any], keys: list[str], value: Any, override: str) -> None:
    for key in keys[:-1]:
        child = target.get(key)
        if child is None:
            child = {}
        elif not isinstance(child, dict):
            raise UsageError(f"override '{override}': '{key}' is a value, not a section")
        target[key] = child = dict(child)
        target = child
    target[keys[-1]] = value


def _check_keys(cls: Any, values: Mapping[str, Any], source: str, prefix: str = "") -> None:
    hints = typing.get_type_hints(cls)
    for key, value in values.items():
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=1)
            hint = f"did you mean '{prefix}{near[0]}'?" if near else f"known: {', '.join(hints)}"
            raise UsageError(f"{source}: unknown key '{prefix}{key}'", hint=hint)
        child = _dataclass_of(hints[key])
        if child is not None and isinstance(value, Mapping):
            _check_keys(child, value, source, f"{prefix}{key}.")


def _dataclass_of(hint: Any) -> Any | None:
    if dataclasses.is_dataclass(hint):
        return hint
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return next((a for a in typing.get_args(hint) if dataclasses.is_dataclass(a)), None)
    return None
