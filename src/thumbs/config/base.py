"""Frozen, closed configuration: an unknown key is an error that names the nearest known one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from thumbs.errors import ConfigError

T = TypeVar("T", bound="Frozen")


class Frozen(BaseModel):
    """Base of every config: immutable, unknown keys refused, field docstrings are the documentation."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=())


def load_config(cls: type[T], path: str | Path, overrides: Iterable[str] = ()) -> T:
    """Config of class `cls` from a YAML file, with dotted `key=value` overrides applied on top.

    Raises ConfigError that names the file, the key as the user wrote it, and the nearest known key.
    """
    path = Path(path)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise ConfigError(f"no config file at {path}; `thumbs run --help` shows an example") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected settings as `key: value`, got {type(raw).__name__}")
    return build_config(cls, apply_overrides(raw, overrides), source=str(path))


def build_config(cls: type[T], raw: Mapping[str, Any], source: str = "config") -> T:
    """Config of class `cls` from plain data; raises ConfigError in the user's words."""
    try:
        return cls.model_validate(raw)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{source}: {_explain(cls, item)}" for item in error.errors())) from None


def apply_overrides(raw: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of `raw` with each `a.b.c=value` set; values are read as YAML (so `1e-5`, `true`, `[a, b]` work)."""
    result = yaml.safe_load(yaml.safe_dump(dict(raw)))
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"override {override!r}: expected key=value, for example ppo.kl.coef=0.05")
        node = result
        *parents, leaf = key.strip().split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(f"override {override!r}: {parent!r} is a value, not a section")
        node[leaf] = _read_value(value)
    return result


def _read_value(text: str) -> Any:
    """YAML value, except that `1e-5` is a number (YAML 1.1 reads it as a string)."""
    value = yaml.safe_load(text) if text.strip() else None
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _explain(cls: type[BaseModel], item: Mapping[str, Any]) -> str:
    path = [str(part) for part in item["loc"]]
    where = ".".join(path)
    if item["type"] == "value_error":  # raised by a config class, in the user's words
        return f"{where}: {item['ctx']['error']}"
    if item["type"] != "extra_forbidden":
        return f"{where}: {item['msg']} (got {item.get('input')!r})"
    known = known_keys(cls, path[:-1])
    close = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(sorted(known))}"
    return f"unknown key {where!r}; {hint}"


def known_keys(cls: type[BaseModel], parents: list[str]) -> list[str]:
    """Keys of the section that stands under `parents` in a config of class `cls`."""
    current: Any = cls
    for parent in parents:
        if not (isinstance(current, type) and issubclass(current, BaseModel)):
            return []
        annotation: Any = current.model_fields[parent].annotation if parent in current.model_fields else None
        options = getattr(annotation, "__args__", None) or (annotation,)
        models = [o for o in options if isinstance(o, type) and issubclass(o, BaseModel)]
        current = models[0] if models else None
    return list(current.model_fields) if isinstance(current, type) else []
